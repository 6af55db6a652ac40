"""Linear models of scikit-learn in private: gradients as their losses have them, bounded for each record, from the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedjob import SklearnPlan
from fedjob.common.errors import NotPrivate
from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.training_plans.private.linear_steps import LinearSteps, usable_examples
from tests.private_training import Rows, built, points, same_bytes, terms

STEADY = {"learning_rate": "constant", "eta0": 0.1, "penalty": None}


def plan_of(
    estimator: Any, data: Rows | None = None, *, classes: int = 0, load: bool = True, **changes: Any
) -> Any:
    class Sklearn(SklearnPlan):
        def init_estimator(self, model_args: Any) -> Any:
            return estimator()

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            return dataset.arrays()

    model_args = {"num_features": 3} | ({"classes": list(range(classes))} if classes else {})
    data = data or points(classes=classes)
    return built(Sklearn(), data, model_args=model_args, load=load, **changes)


MODELS = {
    **{
        f"classifier {loss}, {classes} classes": (
            lambda loss=loss: SGDClassifier(loss=loss, **STEADY),
            classes,
        )
        for loss in (
            "hinge",
            "log_loss",
            "modified_huber",
            "squared_hinge",
            "perceptron",
            "squared_error",
            "huber",
            "epsilon_insensitive",
            "squared_epsilon_insensitive",
        )
        for classes in (2, 3)
    },
    **{
        f"regressor {loss}": (lambda loss=loss: SGDRegressor(loss=loss, **STEADY), 0)
        for loss in ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
    },
    "perceptron": (lambda: Perceptron(penalty=None), 2),
    "without a constant": (lambda: SGDClassifier(loss="log_loss", fit_intercept=False, **STEADY), 2),
}


def at_random(plan: Any) -> None:
    """Put the estimator to a point at which no loss has a corner."""
    rng = np.random.default_rng(11)
    for array in plan._fitted.arrays().values():
        array[...] = rng.normal(size=array.shape) * 0.4
    if not plan.model.fit_intercept:
        plan.model.intercept_[...] = 0.0


def moved_by(plan: Any, place: tuple[int, int], by: float) -> None:
    row, column = place
    coef = np.atleast_2d(plan.model.coef_)
    if column < coef.shape[1]:
        coef[row, column] += by
    else:
        np.atleast_1d(plan.model.intercept_)[row] += by


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    make, classes = MODELS[name]
    plan = plan_of(make, classes=classes)
    at_random(plan)
    inputs, targets = plan._data
    steps = LinearSteps(plan._fitted, 1e9)
    found = steps.total(inputs, targets).reshape(-1, 4)
    for place in np.ndindex(*found.shape):
        if place[1] == 3 and not plan.model.fit_intercept:
            assert found[place] == 0
            continue
        losses = []
        for by in (1e-5, -2e-5):
            moved_by(plan, place, by)
            losses.append(plan._fitted.loss(inputs, targets) * len(inputs))
        moved_by(plan, place, 1e-5)
        assert found[place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_one_record_more_moves_the_sum_by_the_bound_at_most(name: str) -> None:
    make, classes = MODELS[name]
    plan = plan_of(make, classes=classes)
    at_random(plan)
    inputs, targets = plan._data
    inputs = inputs.copy()
    inputs[-1] *= 1e5
    steps = LinearSteps(plan._fitted, 0.3)
    change = steps.total(inputs, targets) - steps.total(inputs[:-1], targets[:-1])
    assert np.linalg.norm(change) <= 0.3 * (1 + 1e-9)


def test_tiny_inputs_with_a_huge_slope_are_bounded_too() -> None:
    plan = plan_of(lambda: SGDRegressor(fit_intercept=False, **STEADY))
    found = LinearSteps(plan._fitted, 0.3).total(np.full((1, 3), 1e-165), np.array([-1e200]))
    assert np.linalg.norm(found) == pytest.approx(0.3)


def test_training_data_leave_the_estimator_alone() -> None:
    class Started(SklearnPlan):
        def init_estimator(self, model_args: Any) -> Any:
            return SGDRegressor(**STEADY)

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            inputs, targets = dataset.arrays()
            self.model.coef_[...] = inputs.mean(0)
            return inputs, targets

    with pytest.raises(NotPrivate, match=r"training_data changes self\._fitted"):
        built(Started(), points(), model_args={"num_features": 3})


def test_weights_of_classes_are_those_that_the_user_gave() -> None:
    weights = {0: 1.0, 1: 4.0}
    plain = plan_of(lambda: SGDClassifier(loss="log_loss", **STEADY), classes=2)
    weighted = plan_of(lambda: SGDClassifier(loss="log_loss", class_weight=weights, **STEADY), classes=2)
    inputs, targets = plain._data
    parts = [
        LinearSteps(plain._fitted, 1e9).total(inputs[targets == label], targets[targets == label])
        for label in (0, 1)
    ]
    found = LinearSteps(weighted._fitted, 1e9).total(inputs, targets)
    assert np.allclose(found, parts[0] + 4 * parts[1])


@pytest.mark.parametrize("rate", ["constant", "invscaling"])
@pytest.mark.parametrize("penalty", [None, "l2", "l1", "elasticnet"])
def test_a_training_is_what_the_formulas_give_with_the_same_draws(rate: str, penalty: str | None) -> None:
    plan = plan_of(
        lambda: SGDRegressor(
            learning_rate=rate, eta0=0.2, power_t=0.5, penalty=penalty, alpha=0.05, l1_ratio=0.3
        )
    )
    plan.train_locally()
    draws, agreed, data = SecureDraws(same_bytes("a")), terms(), points()
    draws.chosen(np.arange(80), 0.5)  # half of the records are loaded apart
    draws.seed()
    inputs, targets = data.inputs.astype(float), data.targets[:, 0].astype(float)
    weight, constant = np.zeros(3), 0.0
    share = {None: (0.0, 0.0), "l2": (1.0, 0.0), "l1": (0.0, 1.0), "elasticnet": (0.7, 0.3)}[penalty]
    for number in range(1, agreed.steps + 1):
        total = np.zeros(4)
        for row in draws.chosen(np.arange(80), agreed.rate):
            gradient = (weight @ inputs[row] + constant - targets[row]) * np.append(inputs[row], 1.0)
            total += gradient * min(1.0, agreed.max_grad_norm / np.linalg.norm(gradient))
        mean = draws.noisy(total, agreed.noise * agreed.max_grad_norm) / 20
        eta = 0.2 if rate == "constant" else 0.2 / number**0.5
        weight = weight * (1 - eta * 0.05 * share[0]) - eta * mean[:3]
        weight = np.sign(weight) * np.maximum(np.abs(weight) - eta * 0.05 * share[1], 0)
        constant -= eta * mean[3]
    assert np.allclose(plan.model.coef_, weight, atol=1e-6)
    assert np.allclose(plan.model.intercept_, constant, atol=1e-6)


def test_a_record_of_numbers_that_are_none_counts_as_zero() -> None:
    plan = plan_of(lambda: SGDClassifier(loss="log_loss", **STEADY), classes=2)
    inputs, targets = plan._data
    odd = inputs.copy()
    odd[5] = np.nan
    kept = np.arange(80) != 5
    steps = LinearSteps(plan._fitted, 1.0)
    assert np.allclose(steps.total(odd, targets), steps.total(inputs[kept], targets[kept]))


def test_it_learns_and_goes_on_from_its_own_count_of_steps() -> None:
    plan = plan_of(
        lambda: SGDClassifier(loss="log_loss", learning_rate="invscaling", eta0=1.0, power_t=0.25),
        classes=2,
        steps=80,
        noise=0.6,
    )
    plan.train_locally()
    inputs, targets = plan._data
    assert plan.model.score(inputs, targets) > 0.8
    assert plan.get_state()["estimator"]["t"] == 81.0


@pytest.mark.parametrize(
    ("estimator", "classes", "words", "batched"),
    [
        (lambda: LogisticRegression(), 2, r"SGDClassifier\(loss='log_loss'", False),
        (lambda: LinearRegression(), 0, "use SGDRegressor", False),
        (lambda: Ridge(), 0, "use SGDRegressor", False),
        (lambda: GaussianNB(), 2, "use SGDClassifier", False),
        (lambda: MLPClassifier((4,)), 2, "TorchPlan", True),
        (lambda: make_pipeline(StandardScaler(), SGDClassifier(**STEADY)), 2, r"Scale\(..., centre=", True),
        (lambda: SGDClassifier(class_weight="balanced", **STEADY), 2, "class_weight as a dictionary", True),
        (lambda: SGDClassifier(learning_rate="optimal"), 2, "learning_rate='constant', eta0=0.1", True),
        (
            lambda: SGDClassifier(learning_rate="adaptive", eta0=0.1),
            2,
            "learning_rate='constant', eta0=0.1",
            True,
        ),
    ],
)
def test_an_estimator_without_a_private_form_is_refused(
    estimator: Any, classes: int, words: str, batched: bool
) -> None:
    with pytest.raises(NotPrivate, match=words):
        plan_of(estimator, classes=classes, load=False, batched=batched).check_private()


def test_data_that_depend_on_each_other_are_refused() -> None:
    class Centred(SklearnPlan):
        def init_estimator(self, model_args: Any) -> Any:
            return SGDRegressor(**STEADY)

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            inputs, targets = dataset.arrays()
            return inputs - inputs.mean(0), targets

    with pytest.raises(NotPrivate, match="another example"):
        built(Centred(), points(), model_args={"num_features": 3})


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_records_that_cant_be_trained_on_count_as_zero(odd: float) -> None:
    inputs = np.array([[1.0, 2.0], [odd, 0.0], [3.0, 4.0]])
    kept, labels = usable_examples(inputs, np.array([1, 0, 7]), np.array([0, 1]))
    assert np.isnan(kept).all(axis=1).tolist() == [False, True, True]
    assert labels.tolist()[0] == 1
    kept, numbers = usable_examples(inputs, np.array([0.5, 1.0, odd]), None)
    assert np.isnan(kept).all(axis=1).tolist() == [False, True, True]
    assert numbers[0] == 0.5
