"""Metrics of numbers: mse, mae, r2 and explained variance.

Variances are kept as count, mean and sum of squared deviations and merged by
Chan, Golub and LeVeque (1979), which does not cancel where means are large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.metrics.base import MetricState, ratio

if TYPE_CHECKING:
    import numpy as np


def _numbers(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    if predicted.shape != truth.shape:
        raise SpecError(f"predictions have the shape {predicted.shape} and targets {truth.shape}")
    if predicted.dtype.kind not in "iuf" or truth.dtype.kind not in "iuf":
        raise SpecError(f"numbers are needed, found {predicted.dtype} and {truth.dtype}")
    rows = (len(truth), -1) if len(truth) else (0, 1)
    return predicted.astype(np.float64).reshape(rows), truth.astype(np.float64).reshape(rows)


def measure_errors(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    """Sum squared or absolute errors, by output."""
    found, true = _numbers(predicted, truth)
    errors = true - found
    total = (errors**2 if name == "mse" else abs(errors)).sum(axis=0)
    return {"kind": "errors", "metric": name, "n": len(true), "total": total.tolist()}


def measure_variance(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    """Return count, mean and squared deviations of the errors and of the targets, by output."""
    found, true = _numbers(predicted, truth)
    # r2 compares squared errors themselves, explained_variance those around their mean
    errors = true - found
    count = max(len(true), 1)
    error_mean = errors.sum(axis=0) / count
    true_mean = true.sum(axis=0) / count
    return {
        "kind": "variance",
        "metric": name,
        "n": len(true),
        "error_mean": error_mean.tolist(),
        "error_m2": ((errors - error_mean) ** 2).sum(axis=0).tolist(),
        "true_mean": true_mean.tolist(),
        "true_m2": ((true - true_mean) ** 2).sum(axis=0).tolist(),
    }


def add_errors(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Add sums of errors."""
    return {**a, "n": a["n"] + b["n"], "total": [x + y for x, y in zip(a["total"], b["total"], strict=True)]}


def add_variance(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Merge means and squared deviations without cancellation."""
    if not a["n"] or not b["n"]:
        return dict(a if a["n"] else b)
    n = a["n"] + b["n"]
    total: MetricState = {**a, "n": n}
    for what in ("error", "true"):
        means, squares = [], []
        for mean_a, mean_b, m2_a, m2_b in zip(
            a[f"{what}_mean"], b[f"{what}_mean"], a[f"{what}_m2"], b[f"{what}_m2"], strict=True
        ):
            step = mean_b - mean_a
            means.append(mean_a + step * b["n"] / n)
            squares.append(m2_a + m2_b + step * step * a["n"] * b["n"] / n)
        total[f"{what}_mean"], total[f"{what}_m2"] = means, squares
    return total


def value_errors(state: Mapping[str, Any]) -> float:
    """Return the mean error over examples and outputs."""
    return ratio(sum(state["total"]), state["n"] * len(state["total"]))


def value_variance(state: Mapping[str, Any]) -> float:
    """Average over outputs; a constant target scores 1 if met exactly, else 0, as in scikit-learn."""
    n = state["n"]
    if n < 2:
        return math.nan
    scores = []
    for mean, rest, spread in zip(state["error_mean"], state["error_m2"], state["true_m2"], strict=True):
        unexplained = rest + n * mean * mean if state["metric"] == "r2" else rest
        if spread:
            scores.append(1 - unexplained / spread)
        else:
            scores.append(0.0 if unexplained else 1.0)
    return float(sum(scores) / len(scores))
