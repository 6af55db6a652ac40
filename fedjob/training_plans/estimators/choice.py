"""The choice of what makes a user's scikit-learn estimator trainable over nodes, or its refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_clusterer, is_regressor
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fedjob.common.errors import PlanError
from fedjob.training_plans.estimators.base import Array, Fitted
from fedjob.training_plans.estimators.linear_models import MAX_COEFFICIENTS, LeastSquares, Logistic
from fedjob.training_plans.estimators.naive_bayes import Counts, GaussianMoments
from fedjob.training_plans.estimators.prepared import CountedFirst
from fedjob.training_plans.estimators.stochastic import Linear, Perceptrons

KINDS: Mapping[type, type[Fitted]] = {
    SGDClassifier: Linear,
    SGDRegressor: Linear,
    Perceptron: Linear,
    MLPClassifier: Perceptrons,
    LogisticRegression: Logistic,
    LinearRegression: LeastSquares,
    Ridge: LeastSquares,
    GaussianNB: GaussianMoments,
    MultinomialNB: Counts,
    BernoulliNB: Counts,
    ComplementNB: Counts,
}
_INSTEAD = {
    "Lasso": "use SGDRegressor(penalty='l1')",
    "ElasticNet": "use SGDRegressor(penalty='elasticnet')",
    "LassoCV": "use SGDRegressor(penalty='l1'), and Job.cross_validate",
    "RidgeCV": "use Ridge, and Job.cross_validate",
    "LogisticRegressionCV": "use LogisticRegression, and Job.cross_validate",
    "LinearSVC": "use SGDClassifier(loss='hinge')",
    "SVC": "use SGDClassifier(loss='hinge'), which is linear",
    "LinearSVR": "use SGDRegressor(loss='epsilon_insensitive')",
    "RidgeClassifier": "use LogisticRegression",
    "PassiveAggressiveClassifier": "use SGDClassifier",
    "MLPRegressor": "write a TorchPlan",
    "PoissonRegressor": "use the operation GLM(family='poisson')",
    "KMeans": "use the operation KMeans",
    "PCA": "use the operation PCA",
}
_REFUSED = (
    ("average", "averaging over steps and over nodes do not mix"),
    ("early_stopping", "partial_fit can't stop early; stop the job by a hook"),
    ("warm_start", "a federated job always goes on from the shared parameters"),
    ("positive", "it has no closed form"),
    ("dual", "its coefficients are those of rows"),
)


def fitted(estimator: Any, model_args: Mapping[str, Any]) -> Fitted:
    """Return an estimator with its first parameters.

    Args:
        model_args: `num_features`, and `classes` for a classifier.

    Raises:
        PlanError: an estimator or an option of it that can't be combined over nodes, or
            model_args lacks something.
    """
    scaler, inner = _taken_apart(estimator)
    if type(inner) not in KINDS:
        raise PlanError(f"init_estimator returned {_a(inner)}, {_refusal(inner)}")
    _check_options(inner)
    num_features = model_args.get("num_features")
    if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
        raise PlanError(
            f"model_args['num_features'] is the number of input columns, 1 or more; found {num_features!r}"
        )
    classes = None if is_regressor(inner) else _classes(model_args)
    if isinstance(inner, LogisticRegression) and classes is not None:
        _check_size((num_features + 1) * (1 if len(classes) == 2 else len(classes)))
    ready = KINDS[type(inner)](inner, num_features, classes)
    balanced = _is_balanced(inner)
    if scaler is not None or balanced:
        ready = CountedFirst(estimator, ready, scaler, balanced=balanced)
    ready.allocate()
    return ready


def learner_of(estimator: Any) -> Any:
    """Return the estimator at the end of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) and estimator.steps else estimator


def _taken_apart(estimator: Any) -> tuple[Any, Any]:
    """Return the scaler of a pipeline, None for none, and the estimator at its end."""
    if not isinstance(estimator, Pipeline):
        return None, estimator
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    if not steps:
        raise PlanError("init_estimator returned a Pipeline without steps")
    *before, last = steps
    odd = [step for step in before if type(step) is not StandardScaler]
    if odd or len(before) > 1:
        found = ", ".join(type(step).__name__ for step in before)
        raise PlanError(
            f"init_estimator returned a Pipeline with {found} before its estimator; expected one StandardScaler. "
            "What else prepares the data is for Job(preprocess=[...]), which can learn from all nodes too"
        )
    return (before[0] if before else None), last


def _a(estimator: object) -> str:
    return "nothing (None)" if estimator is None else f"a {type(estimator).__name__}"


def _refusal(estimator: Any) -> str:
    name = type(estimator).__name__
    if name in _INSTEAD:
        return f"whose parts at the nodes don't add up to one: {_INSTEAD[name]}"
    names = ", ".join(cls.__name__ for cls in KINDS)
    expected = f"expected one of {names}, or a Pipeline of StandardScaler and one of them"
    known = hasattr(estimator, "fit") and (
        is_classifier(estimator) or is_regressor(estimator) or is_clusterer(estimator)
    )
    return f"which can't be combined over nodes; {expected}" if known else expected


def _check_options(estimator: Any) -> None:
    name = type(estimator).__name__
    for option, advice in _REFUSED:
        if getattr(estimator, option, False):
            raise PlanError(f"{name}({option}=...) is not supported: {advice}")
    if isinstance(estimator, MLPClassifier) and estimator.solver == "lbfgs":
        raise PlanError("MLPClassifier(solver='lbfgs') has no partial_fit: use adam or sgd")
    if isinstance(estimator, LogisticRegression):
        if estimator.solver == "liblinear":
            raise PlanError(
                "LogisticRegression(solver='liblinear') penalises the intercept and has no form for several "
                "classes: use the default solver, 'lbfgs'"
            )
        if estimator.penalty in ("l1", "elasticnet") or getattr(estimator, "l1_ratio", None):
            raise PlanError(
                "LogisticRegression with an L1 penalty is not supported, because its steps don't add up: use "
                "SGDClassifier(loss='log_loss', penalty='l1')"
            )
        if estimator.intercept_scaling != 1:
            raise PlanError(
                "LogisticRegression(intercept_scaling=...) is for the solver liblinear: leave it out"
            )


def _check_size(size: int) -> None:
    if size > MAX_COEFFICIENTS:
        raise PlanError(
            f"this LogisticRegression has {size} coefficients; up to {MAX_COEFFICIENTS} are fitted exactly. Use "
            "SGDClassifier(loss='log_loss')"
        )


def _is_balanced(estimator: Any) -> bool:
    given = getattr(estimator, "class_weight", None)
    if isinstance(given, str) and given != "balanced":
        raise PlanError(
            f"{type(estimator).__name__}(class_weight={given!r}): expected 'balanced' or a dictionary"
        )
    return isinstance(given, str)


def _classes(model_args: Mapping[str, Any]) -> Array:
    given = model_args.get("classes")
    if not isinstance(given, (list, tuple)) or len({str(label) for label in given}) < 2:
        raise PlanError(
            "model_args['classes'] lists all labels of all nodes, two or more, so that a node that misses "
            f"one fits too; found {given!r}"
        )
    return np.unique(np.asarray(given))
