"""Adapters of scikit-learn estimators: where each keeps its parameters and its memory of earlier updates.

scikit-learn allocates parameters at the first fit; a federated job needs them
before it. Counters and moments are what an estimator would forget between
rounds if only its parameters came back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fedjob.common.errors import PlanError

Array = np.ndarray[Any, Any]

SUPPORTED = (SGDClassifier, SGDRegressor, Perceptron, MLPClassifier)


class Fitted(ABC):
    """An estimator whose parameters exist.

    Args:
        estimator: as the user made it.
        num_features: columns of the inputs.
        classes: labels in ascending order, None for a regressor.
    """

    def __init__(self, estimator: Any, num_features: int, classes: Array | None) -> None:
        self.estimator, self.num_features, self.classes = estimator, num_features, classes

    @abstractmethod
    def allocate(self) -> None:
        """Make the first parameters."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name; writing into them changes the estimator."""

    @abstractmethod
    def forget(self) -> None:
        """Be as before the first update, apart from the parameters."""

    @abstractmethod
    def memory(self) -> dict[str, Any]:
        """Return what the next update depends on beside the parameters; arrays included."""

    @abstractmethod
    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what `memory` returned.

        Raises:
            ValueError: it does not fit.
        """

    @abstractmethod
    def loss(self, inputs: Array, targets: Array) -> float:
        """Return the mean loss, without the penalty, of the estimator as it is."""

    def update(self, inputs: Array, targets: Array) -> None:
        """Fit a batch once."""
        self.estimator.partial_fit(inputs, targets)


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


def fitted(estimator: object, model_args: Mapping[str, Any]) -> Fitted:
    """Return an estimator with its first parameters.

    Args:
        model_args: `num_features`, and `classes` for a classifier.

    Raises:
        PlanError: an estimator or an option of it that can't be averaged, or
            model_args lacks something.
    """
    if type(estimator) not in SUPPORTED:
        names = ", ".join(cls.__name__ for cls in SUPPORTED)
        raise PlanError(f"init_estimator returned a {type(estimator).__name__}; expected one of {names}")
    for option, advice in (
        ("average", "averaging over steps and over nodes do not mix"),
        ("early_stopping", "partial_fit can't stop early; stop the job by a hook"),
        ("warm_start", "a federated job always goes on from the shared parameters"),
    ):
        if getattr(estimator, option, False):
            raise PlanError(f"{type(estimator).__name__}({option}=...) is not supported: {advice}")
    if getattr(estimator, "solver", "") == "lbfgs":
        raise PlanError("MLPClassifier(solver='lbfgs') has no partial_fit: use adam or sgd")
    num_features = model_args.get("num_features")
    if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
        raise PlanError(
            f"model_args['num_features'] is the number of input columns, 1 or more; found {num_features!r}"
        )
    classes = None if isinstance(estimator, SGDRegressor) else _classes(model_args)
    kind = Perceptrons if isinstance(estimator, MLPClassifier) else Linear
    ready = kind(estimator, num_features, classes)
    ready.allocate()
    return ready


def _classes(model_args: Mapping[str, Any]) -> Array:
    given = model_args.get("classes")
    if not isinstance(given, (list, tuple)) or len({str(label) for label in given}) < 2:
        raise PlanError(
            "model_args['classes'] lists all labels of all nodes, two or more, so that a node that misses "
            f"one fits too; found {given!r}"
        )
    return np.unique(np.asarray(given))


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
