"""The registry of protocols, by name: one line for each."""

from __future__ import annotations

from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.registry import Registry

PROTOCOLS: Registry[FederatedProtocol] = Registry(
    "protocol",
    {
        "cox_regression": "fedjob.common.protocols.cox:CoxRegression",
        "cyclic": "fedjob.common.protocols.cyclic:Cyclic",
        "ditto": "fedjob.common.protocols.ditto:Ditto",
        "evaluation": "fedjob.common.protocols.evaluation:Evaluation",
        "fedavg": "fedjob.common.protocols.fedavg:FedAvg",
        "fedbuff": "fedjob.common.protocols.fedbuff:FedBuff",
        "fedbn": "fedjob.common.protocols.fedbn:FedBN",
        "fednova": "fedjob.common.protocols.fednova:FedNova",
        "fedopt": "fedjob.common.protocols.fedopt:FedOpt",
        "fedper": "fedjob.common.protocols.fedper:FedPer",
        "fedprox": "fedjob.common.protocols.fedprox:FedProx",
        "finetuned": "fedjob.common.protocols.finetuned:FineTuned",
        "function": "fedjob.common.protocols.function:Function",
        "inference": "fedjob.common.protocols.inference:Inference",
        "kmeans": "fedjob.common.protocols.kmeans:KMeans",
        "linear_regression": "fedjob.common.protocols.linear:LinearRegression",
        "logistic_regression": "fedjob.common.protocols.glm:LogisticRegression",
        "pca": "fedjob.common.protocols.pca:PCA",
        "poisson_regression": "fedjob.common.protocols.glm:PoissonRegression",
        "psi": "fedjob.common.protocols.psi:PrivateSetIntersection",
        "qfedavg": "fedjob.common.protocols.qfedavg:QFedAvg",
        "ridge": "fedjob.common.protocols.linear:Ridge",
        "scaffold": "fedjob.common.protocols.scaffold:Scaffold",
        "statistics": "fedjob.common.protocols.statistics:Statistics",
        "steps": "fedjob.common.protocols.steps:Steps",
    },
    group="fedjob.plans",
)

plans = PROTOCOLS
"""`fedjob.plans`: the protocols that can be run, name -> class, with those of installed plug-ins."""
