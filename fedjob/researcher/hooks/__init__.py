"""Hooks, by name."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.researcher.hooks.base import Hook

HOOKS: Registry[Hook] = Registry(
    "hook",
    {
        "early_stopping": "fedjob.researcher.hooks.early_stopping:EarlyStopping",
        "keep_best": "fedjob.researcher.hooks.best_round:KeepBest",
        "mlflow": "fedjob.researcher.hooks.tracking.mlflow:MLflow",
        "tensorboard": "fedjob.researcher.hooks.tensorboard:TensorBoard",
        "tracing": "fedjob.researcher.hooks.tracking.tracing:Tracing",
        "wandb": "fedjob.researcher.hooks.tracking.wandb:WandB",
    },
)
