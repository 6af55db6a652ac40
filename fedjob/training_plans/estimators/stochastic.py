"""Estimators that learn batch by batch with `partial_fit`: linear models and multi-layer perceptrons.

scikit-learn allocates parameters at the first fit; a federated job needs them
before it. Counters and moments are what an estimator would forget between
rounds if only its parameters came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fedjob.training_plans.estimators.base import Array, Fitted


class Linear(Fitted):
    """SGDClassifier, SGDRegressor and Perceptron: `coef_`, `intercept_` and the step counter `t_`."""

    def allocate(self) -> None:
        # a first fit on zeros makes every attribute; the values it leaves are overwritten
        if self.classes is None:
            self.estimator.partial_fit(np.zeros((1, self.num_features)), np.zeros(1))
        else:
            rows = np.zeros((len(self.classes), self.num_features))
            self.estimator.partial_fit(rows, self.classes, classes=self.classes)
        for array in self.arrays().values():
            array[...] = 0.0
        self.forget()

    def arrays(self) -> dict[str, Array]:
        return {"coef_": self.estimator.coef_, "intercept_": self.estimator.intercept_}

    def forget(self) -> None:
        self.estimator.t_ = 1.0
        self.estimator.n_iter_ = 0

    def settings(self) -> dict[str, Any]:
        estimator, names = self.estimator, ("loss", "penalty", "alpha", "learning_rate", "eta0", "power_t")
        found = {name: getattr(estimator, name) for name in names if hasattr(estimator, name)}
        return {**found, "t": float(estimator.t_)}

    def memory(self) -> dict[str, Any]:
        if self.estimator.t_ == 1.0:
            return {}
        return {"t": float(self.estimator.t_), "n_iter": int(self.estimator.n_iter_)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.forget()
        if memory:
            self.estimator.t_, self.estimator.n_iter_ = float(memory["t"]), int(memory["n_iter"])

    def loss(self, inputs: Array, targets: Array) -> float:
        estimator = self.estimator
        name = getattr(estimator, "loss", "perceptron")
        epsilon = getattr(estimator, "epsilon", 0.1)
        if self.classes is None:
            return float(_regression_loss(name, estimator.predict(inputs) - targets, epsilon).mean())
        scores = estimator.decision_function(inputs)
        scores = scores[:, None] if scores.ndim == 1 else scores
        positive = self.classes[1:] if scores.shape[1] == 1 else self.classes
        signs = np.where(targets[:, None] == positive[None, :], 1.0, -1.0)
        if name in ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"):
            return float(_regression_loss(name, scores - signs, epsilon).sum(axis=1).mean())
        return float(_margin_loss(name, signs * scores).sum(axis=1).mean())


class Perceptrons(Fitted):
    """MLPClassifier: layers of weights, and the moments of Adam or the velocities of SGD."""

    def allocate(self) -> None:
        assert self.classes is not None
        estimator = self.estimator
        rate = estimator.learning_rate_init
        # so small a step changes no weight; it only makes scikit-learn draw them
        estimator.set_params(learning_rate_init=1e-300)
        rows = np.zeros((len(self.classes), self.num_features))
        estimator.partial_fit(rows, self.classes, classes=self.classes)
        estimator.set_params(learning_rate_init=rate)
        self.forget()

    def arrays(self) -> dict[str, Array]:
        weights = {f"coefs_.{i}": array for i, array in enumerate(self.estimator.coefs_)}
        return {
            **weights,
            **{f"intercepts_.{i}": array for i, array in enumerate(self.estimator.intercepts_)},
        }

    def forget(self) -> None:
        estimator = self.estimator
        estimator.t_, estimator.n_iter_, estimator._no_improvement_count = 0, 0, 0
        estimator.best_loss_, estimator.loss_curve_ = np.inf, []
        layers = [*estimator.coefs_, *estimator.intercepts_]
        if estimator.solver == "sgd":
            estimator._optimizer = SGDOptimizer(
                layers,
                estimator.learning_rate_init,
                estimator.learning_rate,
                estimator.momentum,
                estimator.nesterovs_momentum,
                estimator.power_t,
            )
        else:
            estimator._optimizer = AdamOptimizer(
                layers,
                estimator.learning_rate_init,
                estimator.beta_1,
                estimator.beta_2,
                estimator.epsilon,
            )

    def settings(self) -> dict[str, Any]:
        estimator, optimizer = self.estimator, self.estimator._optimizer
        found = {
            "solver": estimator.solver,
            "alpha": float(estimator.alpha),
            "learning_rate": float(optimizer.learning_rate),
            "t": int(estimator.t_),
        }
        if estimator.solver == "sgd":
            return {**found, "momentum": float(estimator.momentum), "schedule": estimator.learning_rate}
        return {**found, "betas": [float(estimator.beta_1), float(estimator.beta_2)]}

    def memory(self) -> dict[str, Any]:
        estimator, optimizer = self.estimator, self.estimator._optimizer
        if not estimator.t_:
            return {}
        kept = {
            "t": int(estimator.t_),
            "n_iter": int(estimator.n_iter_),
            "no_improvement": int(estimator._no_improvement_count),
            "best_loss": float(estimator.best_loss_) if np.isfinite(estimator.best_loss_) else None,
            "learning_rate": float(optimizer.learning_rate),
        }
        if estimator.solver == "sgd":
            return {**kept, "velocities": list(optimizer.velocities)}
        return {**kept, "step": int(optimizer.t), "ms": list(optimizer.ms), "vs": list(optimizer.vs)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.forget()
        if not memory:
            return
        estimator, optimizer = self.estimator, self.estimator._optimizer
        estimator.t_, estimator.n_iter_ = int(memory["t"]), int(memory["n_iter"])
        estimator._no_improvement_count = int(memory["no_improvement"])
        estimator.best_loss_ = np.inf if memory["best_loss"] is None else float(memory["best_loss"])
        optimizer.learning_rate = float(memory["learning_rate"])
        if estimator.solver != "sgd":
            optimizer.t = int(memory["step"])
        shapes = [array.shape for array in (*estimator.coefs_, *estimator.intercepts_)]
        for name in ("velocities",) if estimator.solver == "sgd" else ("ms", "vs"):
            arrays = [np.array(array) for array in memory[name]]
            if [array.shape for array in arrays] != shapes:
                raise ValueError(f"{name} have other shapes than the layers")
            setattr(optimizer, name, arrays)

    def loss(self, inputs: Array, targets: Array) -> float:
        assert self.classes is not None
        shares = np.clip(self.estimator.predict_proba(inputs), 1e-12, 1.0)
        columns = np.searchsorted(self.classes, targets)
        return float(-np.log(shares[np.arange(len(targets)), columns]).mean())


def _margin_loss(name: str, margins: Array) -> Array:
    if name == "log_loss":
        return np.logaddexp(0.0, -margins)
    if name == "modified_huber":
        return np.where(margins >= -1, np.maximum(0.0, 1 - margins) ** 2, -4 * margins)
    if name == "squared_hinge":
        return np.asarray(np.maximum(0.0, 1 - margins) ** 2)
    return np.asarray(np.maximum(0.0, (0.0 if name == "perceptron" else 1.0) - margins))


def _regression_loss(name: str, errors: Array, epsilon: float) -> Array:
    size = np.abs(errors)
    if name == "huber":
        return np.where(size <= epsilon, errors**2 / 2, epsilon * size - epsilon**2 / 2)
    if name == "epsilon_insensitive":
        return np.asarray(np.maximum(0.0, size - epsilon))
    if name == "squared_epsilon_insensitive":
        return np.asarray(np.maximum(0.0, size - epsilon) ** 2)
    return np.asarray(errors**2 / 2)
