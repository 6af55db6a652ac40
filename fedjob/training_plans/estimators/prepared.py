"""Estimators that need figures of all nodes first: a scaler before them, balanced class weights.

The first round counts and trains nothing. What it finds stays for the whole job, so that
coefficients mean the same in every round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjob.training_plans.estimators.base import Array, Fitted


class CountedFirst(Fitted):
    """An estimator behind a StandardScaler, or with `class_weight="balanced"`, or both.

    Args:
        whole: as the user made it, a pipeline or the estimator itself.
        inner: the estimator at its end.
        scaler: the pipeline's StandardScaler, None for none.
        balanced: the weights of the classes are to come from their shares at all nodes.
    """

    def __init__(self, whole: Any, inner: Fitted, scaler: Any, *, balanced: bool) -> None:
        super().__init__(whole, inner.num_features, inner.classes)
        self.inner, self._scaler, self._balanced = inner, scaler, balanced

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return self.inner.exact

    def allocate(self) -> None:
        self._own: dict[str, Array] = {"prepared": np.zeros(())}
        if self._scaler is not None:
            self._own |= {
                "scaler.mean": np.zeros(self.num_features),
                "scaler.square": np.ones(self.num_features),
            }
        if self._balanced:
            assert self.classes is not None
            self._own["class_shares"] = np.full(len(self.classes), 1 / len(self.classes))
        self._weigh()
        self.inner.allocate()
        self.refresh()

    def arrays(self) -> dict[str, Array]:
        return {**self.inner.arrays(), **self._own}

    @property
    def is_prepared(self) -> bool:
        return float(self._own["prepared"]) > 0

    def refresh(self) -> None:
        if self._scaler is not None:
            mean, square = self._own["scaler.mean"], self._own["scaler.square"]
            spread = np.maximum(square - mean**2, 0.0)
            # what is left of a column of one value is rounding
            spread[spread <= 1e-15 * square] = 0.0
            scaler = self._scaler
            scaler.n_features_in_, scaler.n_samples_seen_ = self.num_features, 1
            scaler.mean_ = mean.copy() if scaler.with_mean or scaler.with_std else None
            scaler.var_ = spread if scaler.with_std else None
            scaler.scale_ = np.sqrt(np.where(spread > 0, spread, 1.0)) if scaler.with_std else None
        self._weigh()
        self.inner.refresh()

    def _weigh(self) -> None:
        if self._balanced:
            assert self.classes is not None
            shares = self._own["class_shares"]
            weights = np.where(shares > 0, 1 / (len(shares) * np.where(shares > 0, shares, 1.0)), 1.0)
            self.inner.estimator.class_weight = dict(
                zip(self.classes.tolist(), weights.tolist(), strict=True)
            )

    def _scaled(self, inputs: Array) -> Array:
        return inputs if self._scaler is None else np.asarray(self._scaler.transform(inputs))

    def update(self, inputs: Array, targets: Array) -> None:
        if self.is_prepared:
            self.inner.update(self._scaled(inputs), targets)
        else:
            self._count(inputs, targets)

    def _count(self, inputs: Array, targets: Array) -> None:
        self._own["prepared"][...] = 1.0
        if self._scaler is not None:
            self._own["scaler.mean"][...] = inputs.mean(axis=0)
            self._own["scaler.square"][...] = (inputs**2).mean(axis=0)
        if self._balanced:
            assert self.classes is not None
            self._own["class_shares"][...] = (targets[:, None] == self.classes[None, :]).mean(axis=0)
        self.refresh()

    @property
    def sums_by_class(self) -> bool:  # type: ignore[override]
        return self.inner.sums_by_class

    def point(self) -> list[list[float]]:
        whole = np.asarray(self.inner.point())
        if not whole.size or self._scaler is None:
            return self.inner.point()
        scale = 1.0 if self._scaler.scale_ is None else self._scaler.scale_
        coefficients = whole[:, :-1] / scale
        mean = self._scaler.mean_ if self._scaler.with_mean else np.zeros(self.num_features)
        found: list[list[float]] = np.column_stack(
            [coefficients, whole[:, -1] - coefficients @ mean]
        ).tolist()
        return found

    def weights_at(self, point: list[list[float]], inputs: Array, targets: Array) -> list[Array]:
        return self.inner.weights_at(point, inputs, targets)

    def loss(self, inputs: Array, targets: Array) -> float:
        return self.inner.loss(self._scaled(inputs), targets)

    def forget(self) -> None:
        self.inner.forget()

    def memory(self) -> dict[str, Any]:
        return self.inner.memory()

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.inner.recall(memory)

    def settings(self) -> dict[str, Any]:
        return self.inner.settings()
