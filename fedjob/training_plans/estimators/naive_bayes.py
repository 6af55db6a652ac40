"""Naive Bayes from the counts and moments of all nodes: equal to scikit-learn on their rows together.

One round suffices. GaussianNB takes its moments about the means of the round before, so a
second round removes what rounding leaves where values are large and vary little (Chan,
Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance",
https://doi.org/10.1080/00031305.1983.10483115).
"""

from __future__ import annotations

import numpy as np
from sklearn.base import clone

from fedjob.training_plans.estimators.base import Array, Exact


class _NaiveBayes(Exact):
    """What all kinds share: the share of each class."""

    sums_by_class = True

    @property
    def shares(self) -> Array:
        """The share of each class; equal ones before the first round."""
        found = self._arrays["class_shares"]
        return found if found.sum() else np.full(len(found), 1 / len(found))

    def class_shares(self, targets: Array) -> Array:
        """Return the share of each class among some rows."""
        assert self.classes is not None
        return np.asarray((targets[:, None] == self.classes[None, :]).mean(axis=0))

    def loss(self, inputs: Array, targets: Array) -> float:
        assert self.classes is not None
        with np.errstate(divide="ignore"):
            logs = np.maximum(self.estimator.predict_log_proba(inputs), -700.0)
        return float(-logs[np.arange(len(targets)), np.searchsorted(self.classes, targets)].mean())


class GaussianMoments(_NaiveBayes):
    """GaussianNB: the share, mean and spread of every feature in every class."""

    def zeros(self) -> dict[str, Array]:
        assert self.classes is not None
        shape = len(self.classes), self.num_features
        return {
            "class_shares": np.zeros(shape[0]),
            "reference": np.zeros(shape),
            "shifts": np.zeros(shape),
            "squares": np.zeros(shape),
        }

    def means(self, inputs: Array, targets: Array) -> dict[str, Array]:
        assert self.classes is not None
        reference = self.estimator.theta_.copy()
        shifts, squares = np.zeros_like(reference), np.zeros_like(reference)
        for row, label in enumerate(self.classes):
            away = inputs[targets == label] - reference[row]
            shifts[row], squares[row] = away.sum(axis=0) / len(inputs), (away**2).sum(axis=0) / len(inputs)
        return {
            "class_shares": self.class_shares(targets),
            "reference": reference,
            "shifts": shifts,
            "squares": squares,
        }

    def refresh(self) -> None:
        arrays, estimator = self._arrays, self.estimator
        known = arrays["class_shares"][:, None] > 0
        share = np.where(known, arrays["class_shares"][:, None], 1.0)
        shift = np.where(known, arrays["shifts"] / share, 0.0)
        means = np.where(known, arrays["reference"] + shift, 0.0)
        spreads = np.maximum(np.where(known, arrays["squares"] / share - shift**2, 0.0), 0.0)
        weights = self.shares[:, None]
        middle = (weights * means).sum(axis=0)
        whole = (weights * (spreads + (means - middle) ** 2)).sum(axis=0)
        # as scikit-learn: a part of the largest spread, so that no feature has none
        least = estimator.var_smoothing * float(whole.max()) if self.num_examples else 1.0
        estimator.classes_, estimator.n_features_in_ = self.classes, self.num_features
        # a class that nobody has looks like all rows, and is next to impossible
        estimator.epsilon_, estimator.theta_ = least, np.where(known, means, middle)
        estimator.var_ = np.where(known, spreads, whole) + least
        estimator.class_count_ = self.shares * self.num_examples
        priors = estimator.priors
        found = np.maximum(self.shares, np.finfo(float).tiny)
        estimator.class_prior_ = found if priors is None else np.asarray(priors, dtype=float)


class Counts(_NaiveBayes):
    """MultinomialNB, BernoulliNB and ComplementNB: how often every class and every feature in it occurs."""

    def zeros(self) -> dict[str, Array]:
        assert self.classes is not None
        shape = len(self.classes), self.num_features
        return {"class_shares": np.zeros(shape[0]), "feature_means": np.zeros(shape)}

    def means(self, inputs: Array, targets: Array) -> dict[str, Array]:
        counted = clone(self.estimator).partial_fit(inputs, targets, classes=self.classes)
        return {
            "class_shares": self.class_shares(targets),
            "feature_means": counted.feature_count_ / len(inputs),
        }

    def refresh(self) -> None:
        assert self.classes is not None
        estimator, num = self.estimator, self.num_examples
        estimator.classes_, estimator.n_features_in_ = self.classes, self.num_features
        estimator.class_count_ = np.round(self.shares * num, 6)
        estimator.feature_count_ = self._arrays["feature_means"] * num
        estimator.feature_all_ = estimator.feature_count_.sum(axis=0)
        if not num:  # every class is as likely as the others
            estimator.class_count_ = np.ones(len(self.classes))
        with np.errstate(divide="ignore", invalid="ignore"):
            estimator._update_feature_log_prob(estimator._check_alpha())
            estimator._update_class_log_prior(class_prior=estimator.class_prior)
        if not num:
            estimator.feature_log_prob_ = np.full_like(estimator.feature_count_, np.log(0.5))
