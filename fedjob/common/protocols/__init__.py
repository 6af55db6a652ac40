"""Protocols, by name: one line per file of this folder."""

from __future__ import annotations

from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.registry import Registry

PROTOCOLS: Registry[FederatedProtocol] = Registry(
    "protocol",
    {
        "fedavg": "fedjob.common.protocols.fedavg:FedAvg",
        "function": "fedjob.common.protocols.function:Function",
        "inference": "fedjob.common.protocols.inference:Inference",
    },
    group="fedjob.plans",
)

plans = PROTOCOLS
"""`fedjob.plans`: what there is to run, name -> class; installed plug-ins too."""
