"""The registry of protocols, by name: one line for each."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.protocols.base import FederatedProtocol

PROTOCOLS: Registry[FederatedProtocol] = Registry(
    "protocol",
    {
        "cox_regression": "fedjob.protocols.analytics.cox:CoxRegression",
        "cyclic": "fedjob.protocols.training.cyclic:Cyclic",
        "ditto": "fedjob.protocols.training.ditto:Ditto",
        "evaluation": "fedjob.protocols.evaluation:Evaluation",
        "fedavg": "fedjob.protocols.training.fedavg:FedAvg",
        "fedbuff": "fedjob.protocols.training.fedbuff:FedBuff",
        "fedbn": "fedjob.protocols.training.fedbn:FedBN",
        "fednova": "fedjob.protocols.training.fednova:FedNova",
        "fedopt": "fedjob.protocols.training.fedopt:FedOpt",
        "fedper": "fedjob.protocols.training.fedper:FedPer",
        "fedprox": "fedjob.protocols.training.fedprox:FedProx",
        "finetuned": "fedjob.protocols.training.finetuned:FineTuned",
        "flexlora": "fedjob.protocols.training.adapters.flexlora:FlexLoRA",
        "flora": "fedjob.protocols.training.adapters.flora:FLoRA",
        "function": "fedjob.protocols.function:Function",
        "inference": "fedjob.protocols.inference:Inference",
        "kaplan_meier": "fedjob.protocols.analytics.survival.kaplan_meier:KaplanMeier",
        "kmeans": "fedjob.protocols.analytics.kmeans:KMeans",
        "linear_regression": "fedjob.protocols.analytics.linear:LinearRegression",
        "logistic_regression": "fedjob.protocols.analytics.glm:LogisticRegression",
        "outliers": "fedjob.protocols.analytics.outliers:Outliers",
        "own": "fedjob.protocols.own:OwnProtocol",
        "pca": "fedjob.protocols.analytics.pca:PCA",
        "poisson_regression": "fedjob.protocols.analytics.glm:PoissonRegression",
        "psi": "fedjob.protocols.psi:PrivateSetIntersection",
        "qfedavg": "fedjob.protocols.training.qfedavg:QFedAvg",
        "ridge": "fedjob.protocols.analytics.linear:Ridge",
        "scaffold": "fedjob.protocols.training.scaffold:Scaffold",
        "statistics": "fedjob.protocols.analytics.statistics:Statistics",
        "steps": "fedjob.protocols.steps:Steps",
    },
    group="fedjob.plans",
)

plans = PROTOCOLS
"""`fedjob.plans`: the protocols that can be run, name -> class, with those of installed plug-ins."""
