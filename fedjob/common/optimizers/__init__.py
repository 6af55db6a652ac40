"""The registry of server optimizers, by name."""

from __future__ import annotations

from fedjob.common.optimizers.base import ServerOptimizer
from fedjob.common.registry import Registry

OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    "optimizer",
    {
        "fedadagrad": "fedjob.common.optimizers.adagrad:FedAdagrad",
        "fedadam": "fedjob.common.optimizers.adam:FedAdam",
        "fedavgm": "fedjob.common.optimizers.momentum:FedAvgM",
        "fedyogi": "fedjob.common.optimizers.yogi:FedYogi",
    },
)
