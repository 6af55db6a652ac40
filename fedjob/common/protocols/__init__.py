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
)
