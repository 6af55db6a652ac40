"""Linear models that scikit-learn fits to all rows at once, from the sums of all nodes.

Least squares follow from the products of the columns. A logistic regression takes one
Newton step a round, from the gradient and the second derivatives at the same
coefficients at all nodes; a step that does not lower the loss is halved (Boyd and
Vandenberghe 2004, "Convex Optimization", section 9.5, https://web.stanford.edu/~boyd/cvxbook/).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedjob.training_plans.estimators.base import Array, Exact

MAX_COEFFICIENTS = 2000
"""Of a logistic regression: its second derivatives are a square of so many rows."""

_NONE = -1.0


class LeastSquares(Exact):
    """LinearRegression and Ridge: products of the columns, about the means of the round before."""

    def zeros(self) -> dict[str, Array]:
        num = self.num_features
        return {
            "coef_": np.zeros(num),
            "intercept_": np.zeros(()),
            "reference": np.zeros(num + 1),
            "shifts": np.zeros(num + 1),
            "products": np.zeros((num + 1, num + 1)),
        }

    def means(self, inputs: Array, targets: Array) -> dict[str, Array]:
        reference = self._arrays["reference"] + self._arrays["shifts"]
        away = np.column_stack([inputs, targets]) - reference
        return {
            "coef_": self.estimator.coef_,
            "intercept_": np.asarray(self.estimator.intercept_),
            "reference": reference,
            "shifts": away.mean(axis=0),
            "products": away.T @ away / len(away),
        }

    def refresh(self) -> None:
        arrays, estimator = self._arrays, self.estimator
        middle = arrays["reference"] + arrays["shifts"]
        products = arrays["products"] - np.outer(arrays["shifts"], arrays["shifts"])
        if not estimator.fit_intercept:
            products = products + np.outer(middle, middle)
        num = self.num_examples
        penalty = float(getattr(estimator, "alpha", 0.0)) / num if num else 0.0
        square = products[:-1, :-1] + penalty * np.eye(self.num_features)
        coefficients = np.linalg.lstsq(square, products[:-1, -1], rcond=None)[0]
        estimator.coef_ = coefficients
        shift = float(middle[-1] - middle[:-1] @ coefficients)
        estimator.intercept_ = shift if estimator.fit_intercept else 0.0
        estimator.n_features_in_ = self.num_features

    def loss(self, inputs: Array, targets: Array) -> float:
        return float(((self.estimator.predict(inputs) - targets) ** 2).mean() / 2)

    def settings(self) -> dict[str, Any]:
        return {"alpha": float(getattr(self.estimator, "alpha", 0.0))}


class Logistic(Exact):
    """LogisticRegression with the penalty L2 or none, of two classes or more."""

    @property
    def _num_rows(self) -> int:
        assert self.classes is not None
        return 1 if len(self.classes) == 2 else len(self.classes)

    def zeros(self) -> dict[str, Array]:
        rows, columns = self._num_rows, self.num_features + 1
        return {
            "coef_": np.zeros((rows, self.num_features)),
            "intercept_": np.zeros(rows),
            "base": np.zeros((rows, columns)),
            "base_loss": np.full((), _NONE),
            "loss": np.zeros(()),
            "gradient": np.zeros((rows, columns)),
            "curvature": np.zeros((rows * columns, rows * columns)),
        }

    def _point(self) -> Array:
        return np.column_stack([self._arrays["coef_"], self._arrays["intercept_"]])

    def means(self, inputs: Array, targets: Array) -> dict[str, Array]:
        assert self.classes is not None
        point = np.column_stack([self.estimator.coef_, self.estimator.intercept_])
        ones = np.full(len(inputs), 1.0 if self.estimator.fit_intercept else 0.0)
        columns = np.column_stack([inputs, ones])
        weights = self._weights(targets) / len(inputs)
        scores, labels = columns @ point.T, np.searchsorted(self.classes, targets)
        if len(self.classes) == 2:
            chances = _logistic(scores)
            wanted = labels[:, None].astype(float)
            losses = np.logaddexp(0.0, np.where(wanted > 0, -scores, scores))[:, 0]
            inner = (chances * (1 - chances))[:, :, None]
        else:
            chances = _softmax(scores)
            wanted = np.eye(len(self.classes))[labels]
            losses = -np.log(np.maximum((chances * wanted).sum(axis=1), 1e-300))
            inner = (
                chances[:, :, None] * np.eye(len(self.classes)) - chances[:, :, None] * chances[:, None, :]
            )
        size = point.size
        curvature = np.empty((*point.shape, *point.shape))
        for row in range(inner.shape[1]):
            for other in range(inner.shape[2]):
                share = weights * inner[:, row, other]
                curvature[row, :, other, :] = (columns * share[:, None]).T @ columns
        return {
            "coef_": point[:, :-1],
            "intercept_": point[:, -1],
            "base": self._base,
            "base_loss": np.asarray(self._base_loss),
            "loss": np.asarray((weights * losses).sum()),
            "gradient": ((chances - wanted) * weights[:, None]).T @ columns,
            "curvature": curvature.reshape(size, size),
        }

    def point(self) -> list[list[float]]:
        whole = np.column_stack([self.estimator.coef_, self.estimator.intercept_])
        found: list[list[float]] = whole.tolist()
        return found

    def weights_at(self, point: list[list[float]], inputs: Array, targets: Array) -> list[Array]:
        assert self.classes is not None
        whole = np.asarray(point)
        scores = inputs @ whole[:, :-1].T + whole[:, -1]
        chances = _logistic(scores) if len(whole) == 1 else _softmax(scores)
        known = np.asarray(self.classes)[1:] if len(whole) == 1 else np.asarray(self.classes)
        wanted = (targets[:, None] == known[None, :]).astype(float)
        given = self._weights(targets)[:, None]
        return [*(given * chances * (1 - chances)).T, *(given * (chances - wanted)).T]

    def _weights(self, targets: Array) -> Array:
        given = self.estimator.class_weight
        if given is None:
            return np.ones(len(targets))
        return np.asarray([float(given.get(label, 1.0)) for label in targets.tolist()])

    def refresh(self) -> None:
        arrays, estimator = self._arrays, self.estimator
        point, base, base_loss = self._point(), arrays["base"], float(arrays["base_loss"])
        if self.num_examples:
            strength = _strength(estimator) / self.num_examples
            penalised = np.ones_like(point)
            penalised[:, -1] = 0.0
            loss = float(arrays["loss"]) + strength / 2 * float((penalised * point**2).sum())
            if base_loss != _NONE and loss > base_loss + 1e-12 * (1 + abs(base_loss)):
                point = (base + point) / 2
            else:
                base, base_loss = point.copy(), loss
                slope = (arrays["gradient"] + strength * penalised * point).ravel()
                bend = arrays["curvature"] + strength * np.diag(penalised.ravel())
                point = point - np.linalg.lstsq(bend, slope, rcond=None)[0].reshape(point.shape)
        self._base, self._base_loss = base.copy(), base_loss
        estimator.coef_, estimator.intercept_ = point[:, :-1], point[:, -1]
        estimator.classes_, estimator.n_features_in_ = self.classes, self.num_features
        estimator.n_iter_ = np.ones(1, dtype=np.int32)

    def loss(self, inputs: Array, targets: Array) -> float:
        assert self.classes is not None
        chances = np.maximum(self.estimator.predict_proba(inputs), 1e-300)
        columns = np.searchsorted(self.classes, targets)
        return float(-np.log(chances[np.arange(len(targets)), columns]).mean())

    def settings(self) -> dict[str, Any]:
        return {"C": float(self.estimator.C), "penalty": "l2" if _strength(self.estimator) else "none"}


def _strength(estimator: Any) -> float:
    """Return the factor of half the squared coefficients, beside the sum of the losses."""
    none = estimator.penalty is None or not np.isfinite(estimator.C)
    return 0.0 if none else 1.0 / float(estimator.C)


def _logistic(scores: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scores, -700, 700))))


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
