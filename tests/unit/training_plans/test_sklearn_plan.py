from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Perceptron,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import LinearSVC

from fedjob.common.errors import NodeFailure, PlanError
from fedjob.metrics.states import add_all, error, values
from fedjob.training_plans.context import Context
from fedjob.training_plans.example_order import training_batches
from fedjob.training_plans.plan_checks import check_plan_class
from fedjob.training_plans.sklearn import SklearnPlan

RNG = np.random.default_rng(9)
INPUTS = RNG.normal(size=(60, 4))
NUMBERS = INPUTS @ np.array([1.0, -1.0, 2.0, 0.0])
BINARY = (NUMBERS > 0).astype(int)
THREE = np.digitize(NUMBERS, [-1.0, 1.0])
WORDS = np.array(["healthy", "ill"])[BINARY]

ESTIMATORS: dict[str, tuple[Any, Any, Any]] = {
    "log": (lambda: SGDClassifier(loss="log_loss"), [0, 1], BINARY),
    "hinge, three": (lambda: SGDClassifier(learning_rate="invscaling", eta0=0.1), [0, 1, 2], THREE),
    "seeded": (lambda: SGDClassifier(random_state=3), [0, 1], BINARY),
    "elastic": (lambda: SGDClassifier(penalty="elasticnet", loss="modified_huber"), [0, 1], BINARY),
    "regressor": (lambda: SGDRegressor(), None, NUMBERS),
    "huber": (lambda: SGDRegressor(loss="huber", learning_rate="adaptive"), None, NUMBERS),
    "perceptron": (lambda: Perceptron(), ["healthy", "ill"], WORDS),
    "mlp adam": (lambda: MLPClassifier((5,)), [0, 1, 2], THREE),
    "mlp sgd": (lambda: MLPClassifier((5, 3), solver="sgd", nesterovs_momentum=True), [0, 1], BINARY),
    "mlp schedule": (
        lambda: MLPClassifier((5,), solver="sgd", learning_rate="invscaling"),
        ["ill", "healthy"],
        WORDS,
    ),
}
every_estimator = pytest.mark.parametrize(("make", "classes", "targets"), ESTIMATORS.values(), ids=ESTIMATORS)
ARGS = {"batch_size": 7, "epochs": 1}


def built(make: Any, classes: Any, data: Any, args: Any = ARGS, cls: Any = None, **ctx: Any) -> Any:
    class Plan(cls or SklearnPlan):  # type: ignore[misc]
        def init_estimator(self, model_args: Any) -> Any:
            return make()

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            return dataset

    plan = check_plan_class(Plan)()
    plan.ctx = Context(**{"node": "a", "round": 1, "job_seed": 3, "seed": 11, **ctx})
    plan.build({"num_features": 4} if classes is None else {"num_features": 4, "classes": classes}, args)
    plan.load_data(data)
    return plan


def step(plan: Any, params: Any, state: Any, round_: int, args: Any = ARGS) -> tuple[Any, Any]:
    plan.ctx.round, plan.ctx.seed = round_, 100 + round_
    plan.start_step(args)
    plan.set_state(state)
    plan.set_params(params)
    plan.train_locally()
    return plan.get_params(), plan.get_state()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_estimator
def test_one_node_equals_scikit_learn_alone(make: Any, classes: Any, targets: Any) -> None:
    """Rounds at one node are the batches of pooled data, fitted by scikit-learn alone in the same order."""
    plan = built(make, classes, (INPUTS, targets))
    params, state = plan.get_params(), None
    alone = built(make, classes, (INPUTS, targets)).model
    for round_ in (1, 2, 3):
        params, state = step(plan, params, state, round_)
        if not isinstance(make().random_state, int):
            alone.random_state = plan.model.random_state
        for rows in training_batches(np.arange(60), plan.training_args, plan.seed_of("order")):
            alone.partial_fit(INPUTS[rows], targets[rows])
    found = (
        [*alone.coefs_, *alone.intercepts_] if hasattr(alone, "coefs_") else [alone.coef_, alone.intercept_]
    )
    for mine, theirs in zip(params.values(), found, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)
    assert plan.model.t_ == alone.t_


@every_estimator
def test_a_fresh_plan_and_a_warm_one_train_to_the_same_bytes(make: Any, classes: Any, targets: Any) -> None:
    warm = built(make, classes, (INPUTS, targets))
    x = y = warm.get_params()
    state_x = state_y = None
    for round_ in (1, 2, 3):
        x, state_x = step(warm, x, state_x, round_)
        y, state_y = step(built(make, classes, (INPUTS, targets)), y, state_y, round_)
        assert same(x, y)
        assert state_x is not None


@every_estimator
def test_parameters_exist_before_any_fit_and_are_everywhere_the_same(
    make: Any, classes: Any, targets: Any
) -> None:
    a = built(make, classes, (INPUTS, targets), node="a", seed=1).get_params()
    b = built(make, classes, (INPUTS[:5], targets[:5]), node="b", seed=2).get_params()
    assert same(a, b)
    assert all(tensor.dtype == torch.float64 for tensor in a.values())


def test_first_parameters_of_a_linear_model_are_zero_and_of_a_network_drawn() -> None:
    linear = built(lambda: SGDClassifier(), [0, 1, 2], (INPUTS, THREE)).get_params()
    assert {name: tuple(tensor.shape) for name, tensor in linear.items()} == {
        "coef_": (3, 4),
        "intercept_": (3,),
    }
    assert not any(tensor.any() for tensor in linear.values())
    network = built(lambda: MLPClassifier((5,), random_state=4), [0, 1, 2], (INPUTS, THREE)).get_params()
    reference = MLPClassifier((5,), random_state=4, learning_rate_init=1e-300)
    reference.partial_fit(INPUTS, THREE, classes=[0, 1, 2])
    np.testing.assert_array_equal(network["coefs_.1"].numpy(), reference.coefs_[1])


@pytest.mark.parametrize("make", [lambda: SGDClassifier(loss="log_loss"), lambda: MLPClassifier((6,))])
def test_a_node_that_misses_a_class_takes_part(make: Any) -> None:
    few = THREE != 2
    nodes = [
        built(make, [0, 1, 2], (INPUTS[few], THREE[few]), node="a"),
        built(make, [0, 1, 2], (INPUTS[~few], THREE[~few]), node="b"),
    ]
    params, states = nodes[0].get_params(), [None, None]
    for round_ in range(1, 31):
        weights, found = [], []
        for number, node in enumerate(nodes):
            mine, states[number] = step(node, params, states[number], round_)
            found.append(mine)
            weights.append(node.num_train)
        params = {
            name: sum(w * p[name] for w, p in zip(weights, found, strict=True)) / sum(weights)
            for name in params
        }
    whole = built(make, [0, 1, 2], (INPUTS, THREE))
    whole.set_params(params)
    assert accuracy_score(THREE, whole.model.predict(INPUTS)) > 0.6
    assert set(whole.model.predict(INPUTS)) == {0, 1, 2}


def test_counters_and_moments_go_on_and_are_reset_without_a_state() -> None:
    plan = built(lambda: SGDClassifier(), [0, 1], (INPUTS, BINARY))
    params, state = step(plan, plan.get_params(), None, 1)
    assert state["estimator"]["t"] == 61.0
    assert step(plan, params, state, 2)[1]["estimator"]["t"] == 121.0
    assert step(plan, params, None, 2)[1]["estimator"]["t"] == 61.0

    plan = built(lambda: MLPClassifier((5,)), [0, 1], (INPUTS, BINARY))
    params, state = step(plan, plan.get_params(), None, 1)
    assert state["estimator"]["step"] == 9
    assert [tuple(m.shape) for m in state["estimator"]["ms"]] == [(4, 5), (5, 1), (5,), (1,)]
    with_moments, later = step(plan, params, state, 2)
    assert later["estimator"]["step"] == 18
    assert not same(with_moments, step(plan, params, None, 2)[0])


def test_a_state_of_another_shape_is_refused() -> None:
    plan = built(lambda: MLPClassifier((5,)), [0, 1], (INPUTS, BINARY))
    plan.train_locally()
    state = plan.get_state()
    with pytest.raises(NodeFailure, match="state_mismatch"):
        built(lambda: MLPClassifier((6,)), [0, 1], (INPUTS, BINARY)).set_state(state)


def test_metrics_of_two_nodes_add_to_those_of_the_union() -> None:
    args = {"test_metric": ["accuracy", "f1", "roc_auc"], "epochs": 5}

    class Tested(SklearnPlan):
        def testing_data(self, dataset: Any, training_args: Any) -> Any:
            return dataset

    make = lambda: SGDClassifier(loss="log_loss")  # noqa: E731
    a = built(make, ["healthy", "ill"], (INPUTS[:17], WORDS[:17]), args, Tested)
    a.train_locally()
    b = built(make, ["healthy", "ill"], (INPUTS[17:], WORDS[17:]), args, Tested)
    b.set_params(a.get_params())
    states = add_all(a.validate(), b.validate())
    total = values(states)
    assert total["accuracy"] == pytest.approx(accuracy_score(WORDS, a.model.predict(INPUTS)))
    exact = roc_auc_score(BINARY, a.model.predict_proba(INPUTS)[:, 1])
    assert abs(total["roc_auc"] - exact) <= error(states["roc_auc"]) < 0.2  # no node counts few rows together


def test_validation_of_a_regressor_on_a_stable_split() -> None:
    args = {"test_ratio": 0.25, "test_metric": ["r2", "mse"], "epochs": 20}
    plan = built(lambda: SGDRegressor(), None, (INPUTS, NUMBERS), args)
    assert plan.train_locally().num_examples == 45
    inputs, targets = (part[plan._test_rows] for part in plan._test)
    assert len(targets) == 15
    assert values(plan.validate())["r2"] == pytest.approx(r2_score(targets, plan.model.predict(inputs)))
    other = built(lambda: SGDRegressor(), None, (INPUTS, NUMBERS), args, round=5, seed=77)
    np.testing.assert_array_equal(other._test[0][other._test_rows], inputs)


def test_a_testing_step_of_ones_own_is_used() -> None:
    class Own(SklearnPlan):
        def testing_step(self, estimator: Any, batch: Any) -> Any:
            return {"rows": len(batch[1]), "mean": estimator.predict(batch[0]).mean()}

    plan = built(lambda: SGDRegressor(), None, (INPUTS, NUMBERS), {"test_ratio": 0.5}, Own)
    assert values(plan.validate()) == {"rows": 30.0, "mean": 0.0}


def test_metrics_events_come_with_every_interval() -> None:
    events: list[Any] = []
    plan = built(
        lambda: SGDClassifier(), [0, 1], (INPUTS, BINARY), {"batch_size": 6, "log_interval": 4},
        send=lambda type_, body: events.append((type_, body)),
    )  # fmt: skip
    outcome = plan.train_locally()
    assert [body["iteration"] for type_, body in events if type_ == "metrics"] == [4, 8, 10]
    assert (outcome.num_examples, outcome.num_updates) == (60, 10)
    assert outcome.loss > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearSVC(), "returned a LinearSVC, .*SGDClassifier"),
        (
            lambda: RandomForestClassifier(),
            "RandomForestClassifier, which can't be combined over nodes; expected one of",
        ),
        (lambda: None, r"returned nothing \(None\), expected one of SGDClassifier"),
        (lambda: LogisticRegression(l1_ratio=1.0), "L1 penalty"),
        (lambda: LogisticRegression(solver="liblinear"), "liblinear"),
        (lambda: LogisticRegression(warm_start=True), "warm_start"),
        (lambda: LinearRegression(positive=True), "positive"),
        (lambda: make_pipeline(MinMaxScaler(), SGDClassifier()), "MinMaxScaler before its estimator"),
        (lambda: SGDClassifier(class_weight="even"), "class_weight='even'"),
        (lambda: SGDClassifier(average=True), "average"),
        (lambda: SGDClassifier(early_stopping=True), "early_stopping"),
        (lambda: MLPClassifier(warm_start=True), "warm_start"),
        (lambda: MLPClassifier(solver="lbfgs"), "lbfgs"),
    ],
)
def test_estimators_and_options_that_do_not_average_are_refused(make: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        built(make, [0, 1], (INPUTS, BINARY), {})


@pytest.mark.parametrize(
    ("model_args", "words"),
    [
        ({"classes": [0, 1]}, "num_features"),
        ({"num_features": 0, "classes": [0, 1]}, "num_features"),
        ({"num_features": 4}, r"model_args\['classes'\]"),
        ({"num_features": 4, "classes": [1]}, r"model_args\['classes'\]"),
    ],
)
def test_model_args_that_lack_something_say_what(model_args: Any, words: str) -> None:
    class Plan(SklearnPlan):
        def init_estimator(self, model_args: Any) -> Any:
            return SGDClassifier()

    with pytest.raises(PlanError, match=words):
        Plan().build(model_args, {})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((INPUTS, BINARY + 1), "labels that model_args"),
        ((np.where(INPUTS > 2, np.nan, INPUTS), BINARY), "missing or infinite"),
        ((INPUTS[:, :3], BINARY), r"expected \[rows, 4\]"),
        ((INPUTS, BINARY[:5]), r"expected \[rows, 4\]"),
        ((INPUTS.astype(str)[:1] + "x", BINARY[:1]), "not all numbers"),
        (INPUTS, "expected \\(inputs, targets\\)"),
    ],
)
def test_data_that_does_not_fit_says_why(data: Any, words: str) -> None:
    with pytest.raises((PlanError, NodeFailure), match=words):
        built(lambda: SGDClassifier(), [0, 1], data)


def test_no_data_and_nothing_to_test_on_are_failures_of_the_node() -> None:
    plan = built(lambda: SGDClassifier(), [0, 1], (INPUTS[:0], BINARY[:0]))
    for act, reason in ((plan.train_locally, "no_data"), (plan.validate, "no_test_data")):
        with pytest.raises(NodeFailure) as caught:
            act()
        assert caught.value.reason == reason


def test_a_protocol_that_needs_gradients_is_told() -> None:
    with pytest.raises(PlanError, match="corrects gradients"):
        built(lambda: SGDClassifier(), [0, 1], (INPUTS, BINARY)).train_locally(lambda model: None)


def test_parameters_that_do_not_fit_are_refused() -> None:
    plan = built(lambda: SGDClassifier(), [0, 1], (INPUTS, BINARY))
    params = plan.get_params()
    with pytest.raises(PlanError, match="expected coef_, intercept_"):
        plan.set_params({"coef_": params["coef_"]})
    with pytest.raises(PlanError, match="coef_: expected float64"):
        plan.set_params({**params, "coef_": torch.zeros(1, 4)})
