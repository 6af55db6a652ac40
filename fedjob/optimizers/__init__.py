"""The registry of server optimizers, by name."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.optimizers.base import ServerOptimizer

OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    "optimizer",
    {
        "fedadagrad": "fedjob.optimizers.adaptive:FedAdagrad",
        "fedadam": "fedjob.optimizers.adaptive:FedAdam",
        "fedavgm": "fedjob.optimizers.momentum:FedAvgM",
        "fedyogi": "fedjob.optimizers.adaptive:FedYogi",
    },
)
