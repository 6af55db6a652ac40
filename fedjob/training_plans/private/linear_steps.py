"""The gradients of single records of scikit-learn's linear models in closed form, and the steps that use their noisy sum.

scikit-learn's own `partial_fit` takes a step after each record; here a step follows each sample, with the mean of the
bounded gradients of its records, as DP-SGD has it (Abadi et al. 2016, https://arxiv.org/abs/1607.00133). The penalty
does not come from records, and needs no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from fedjob.common.errors import NotPrivate
from fedjob.training_plans.estimators.base import Array, Fitted
from fedjob.training_plans.estimators.linear_models import LeastSquares, Logistic
from fedjob.training_plans.estimators.prepared import CountedFirst
from fedjob.training_plans.estimators.stochastic import Linear, Perceptrons
from fedjob.training_plans.private.step_draws import step_draws
from fedjob.training_plans.private.training import PrivateTraining

RATES = ("constant", "invscaling")
"""Learning rates of scikit-learn that are of steps, and not of single records or of losses."""

_STEADY = "learning_rate='constant', eta0=0.1"


def check_estimator(fitted: Fitted) -> None:
    """Refuse an estimator that has no form with differential privacy.

    Raises:
        NotPrivate: it says what to use instead.
    """
    estimator = fitted.estimator
    name = type(estimator).__name__
    if isinstance(fitted, CountedFirst):
        raise NotPrivate(
            "a StandardScaler in a Pipeline and class_weight='balanced' count over all records first, without noise: scale "
            "by fixed numbers, preprocess=[Scale(..., centre=..., spread=...)], and give class_weight as a dictionary"
        )
    if isinstance(fitted, Perceptrons):
        raise NotPrivate(f"{name} shows no gradients of single records: write the network as a TorchPlan")
    if isinstance(fitted, Logistic):
        raise NotPrivate(
            f"{name} is fitted from sums over all records, which have no noise: use SGDClassifier(loss='log_loss', {_STEADY})"
        )
    if isinstance(fitted, LeastSquares):
        raise NotPrivate(
            f"{name} is fitted from sums over all records, which have no noise: use SGDRegressor({_STEADY})"
        )
    if not isinstance(fitted, Linear):
        raise NotPrivate(
            f"{name} is fitted from counts of all records, which have no noise: use SGDClassifier({_STEADY})"
        )
    rate = getattr(estimator, "learning_rate", "constant")
    if rate not in RATES:
        raise NotPrivate(
            f"{name}(learning_rate={rate!r}) is made for steps after single records, or goes by their losses: give "
            f"{_STEADY}, or 'invscaling'"
        )


class LinearSteps:
    """SGDClassifier, SGDRegressor or Perceptron, trained on samples of records.

    Args:
        bound: on the norm of one record's gradient, over all coefficients and intercepts.
    """

    def __init__(self, fitted: Fitted, bound: float) -> None:
        self._estimator, self._classes, self._bound = fitted.estimator, fitted.classes, bound
        self._slope = _SLOPES[getattr(fitted.estimator, "loss", "perceptron")]

    def run(self, private: PrivateTraining, rows: Array, inputs: Array, targets: Array) -> None:
        """Take all steps of the terms.

        Args:
            rows: of the training split, among the inputs and targets.
        """
        terms, draws = private.terms, step_draws(private, rows, lambda: (inputs, targets))
        for number in range(1, terms.steps + 1):
            sample = draws.chosen()
            [noisy] = draws.noisy([self.total(inputs[sample], targets[sample])])
            self.take(noisy / terms.sample_size)
            private.progress(number, terms.steps)

    @property
    def size(self) -> int:
        """The number of coefficients, one intercept to each row of them included."""
        rows, columns = np.atleast_2d(self._estimator.coef_).shape
        return int(rows * (columns + 1))

    def total(self, inputs: Array, targets: Array) -> Array:
        """Return the sum of the bounded gradients of some records, float64: coefficients row by row, the constant last.

        Args:
            inputs: shape (records, features).
            targets: shape (records,).
        """
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = self._slopes(inputs, targets)
            constant = 1.0 if self._estimator.fit_intercept else 0.0
            norms = _norms(slopes) * np.hypot(_norms(inputs), constant)
        kept = np.isfinite(norms)
        slopes, inputs, norms = slopes[kept], inputs[kept], norms[kept]
        bounded = slopes * (self._bound / np.maximum(norms, self._bound))[:, None]
        return np.column_stack([bounded.T @ inputs, bounded.sum(axis=0) * constant]).ravel()

    def take(self, gradient: Array) -> None:
        """Take one step along a gradient of `size` numbers, and count it."""
        estimator = self._estimator
        coef = np.atleast_2d(estimator.coef_)  # a view: the estimator's own numbers change
        rate = estimator.eta0
        if getattr(estimator, "learning_rate", "constant") == "invscaling":
            rate /= estimator.t_**estimator.power_t
        found = gradient.reshape(len(coef), -1)
        shrink, threshold = self._penalty(rate)
        coef *= shrink
        coef -= rate * found[:, :-1]
        if threshold:
            coef[...] = np.sign(coef) * np.maximum(np.abs(coef) - threshold, 0.0)
        if estimator.fit_intercept:
            estimator.intercept_ -= rate * found[:, -1]
        estimator.t_ += 1.0
        estimator.n_iter_ += 1

    def _penalty(self, rate: float) -> tuple[float, float]:
        """Return what coefficients are multiplied by, and then made smaller by, in a step."""
        estimator = self._estimator
        share = {"l2": 0.0, "l1": 1.0, "elasticnet": getattr(estimator, "l1_ratio", 0.15)}.get(
            estimator.penalty
        )
        if share is None:
            return 1.0, 0.0
        strength = rate * estimator.alpha
        return max(0.0, 1.0 - (1.0 - share) * strength), share * strength

    def _slopes(self, inputs: Array, targets: Array) -> Array:
        """Return the slope of every record's loss in each of its scores, shape (records, scores)."""
        coef = np.atleast_2d(self._estimator.coef_)
        scores = inputs @ coef.T + np.atleast_1d(self._estimator.intercept_)
        epsilon = getattr(self._estimator, "epsilon", 0.1)
        if self._classes is None:
            return np.asarray(self._slope(scores, np.asarray(targets, dtype=np.float64)[:, None], epsilon))
        positive = self._classes[1:] if len(coef) == 1 else self._classes
        signs = np.where(targets[:, None] == positive[None, :], 1.0, -1.0)
        return np.asarray(self._slope(scores, signs, epsilon) * self._weights(targets, signs))

    def _weights(self, targets: Array, signs: Array) -> Array:
        """Return the weight of each record in each score, as scikit-learn has it: of several classes the others weigh 1."""
        assert self._classes is not None
        given: Mapping[Any, float] = getattr(self._estimator, "class_weight", None) or {}
        own = np.array([given.get(label, 1.0) for label in self._classes.tolist()])
        of_record = own[np.searchsorted(self._classes, targets)][:, None]
        return of_record if signs.shape[1] == 1 else np.where(signs > 0, of_record, 1.0)


def _norms(rows: Array) -> Array:
    """Return the norm of each row, by its largest number: squares of tiny or huge ones would be lost."""
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    by = np.where(peaks > 0, peaks, 1.0)
    return np.asarray(np.sqrt(((rows / by[:, None]) ** 2).sum(axis=1)) * by)


def _hinge(least: float) -> Callable[[Array, Array, float], Array]:
    return lambda scores, signs, epsilon: np.where(scores * signs <= least, -signs, 0.0)


def _modified_huber(scores: Array, signs: Array, epsilon: float) -> Array:
    margins = scores * signs
    return np.where(margins >= 1, 0.0, np.where(margins >= -1, -2 * signs * (1 - margins), -4 * signs))


_SLOPES: Mapping[str, Callable[[Array, Array, float], Array]] = {
    "hinge": _hinge(1.0),
    "perceptron": _hinge(0.0),
    "squared_hinge": lambda scores, signs, epsilon: -2 * signs * np.maximum(0.0, 1 - scores * signs),
    "log_loss": lambda scores, signs, epsilon: -signs * expit(-scores * signs),
    "modified_huber": _modified_huber,
    "squared_error": lambda scores, targets, epsilon: scores - targets,
    "huber": lambda scores, targets, epsilon: np.clip(scores - targets, -epsilon, epsilon),
    "epsilon_insensitive": lambda scores, targets, epsilon: (
        np.sign(scores - targets) * (np.abs(scores - targets) > epsilon)
    ),
    "squared_epsilon_insensitive": lambda scores, targets, epsilon: (
        2 * np.sign(scores - targets) * np.maximum(0.0, np.abs(scores - targets) - epsilon)
    ),
}
"""Loss -> its slope in a score, of scores, signs or targets, and the loss's epsilon; as `_margin_loss` in `stochastic`."""


def usable_examples(inputs: Array, targets: Array, classes: Array | None) -> tuple[Array, Array]:
    """Return examples of which those that can't be trained on are NaN: their gradients count as zero.

    Under differential privacy none may be an error: whether there is an error would tell of a record.

    Args:
        classes: that labels are of; None for numbers.
    """
    usable: Any = np.isfinite(inputs).all(axis=1)
    if targets.dtype.kind == "f":
        usable = usable & np.isfinite(targets)
    if classes is not None:
        usable = usable & np.isin(targets, classes)
    kind, filler = (np.dtype(np.float64), 0.0) if classes is None else (classes.dtype, classes[0])
    known = np.full(len(targets), filler, dtype=kind)
    known[usable] = targets[usable].astype(kind)
    return np.where(usable[:, None], inputs, np.nan), known
