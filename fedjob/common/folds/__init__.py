"""Folds, by name."""

from __future__ import annotations

from fedjob.common.folds.base import Fold
from fedjob.common.registry import Registry

FOLDS: Registry[Fold] = Registry(
    "fold",
    {
        "weighted_mean": "fedjob.common.folds.mean:WeightedMean",
        "sum": "fedjob.common.folds.sum:Sum",
        "collect": "fedjob.common.folds.collect:Collect",
    },
)
