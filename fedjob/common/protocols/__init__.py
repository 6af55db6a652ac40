"""Protocols, by name: one line per file of this folder."""

from __future__ import annotations

from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.registry import Registry

PROTOCOLS: Registry[FederatedProtocol] = Registry(
    "protocol",
    {
        "cyclic": "fedjob.common.protocols.cyclic:Cyclic",
        "evaluation": "fedjob.common.protocols.evaluation:Evaluation",
        "fedavg": "fedjob.common.protocols.fedavg:FedAvg",
        "fedopt": "fedjob.common.protocols.fedopt:FedOpt",
        "fedprox": "fedjob.common.protocols.fedprox:FedProx",
        "function": "fedjob.common.protocols.function:Function",
        "inference": "fedjob.common.protocols.inference:Inference",
        "psi": "fedjob.common.protocols.psi:PrivateSetIntersection",
        "scaffold": "fedjob.common.protocols.scaffold:Scaffold",
        "statistics": "fedjob.common.protocols.statistics:Statistics",
        "steps": "fedjob.common.protocols.steps:Steps",
    },
    group="fedjob.plans",
)

plans = PROTOCOLS
"""`fedjob.plans`: what there is to run, name -> class; installed plug-ins too."""
