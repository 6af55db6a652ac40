"""Estimators that follow from sums: a federated round equals scikit-learn on the rows of all nodes together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import WeightedMean
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.parameters.tensor_kinds import NUM_EXAMPLES
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import Gathered
from fedjob.protocols.training.fedavg import FedAvg
from fedjob.protocols.training.fedopt import FedOpt
from fedjob.training_plans.context import Context
from fedjob.training_plans.sklearn import SklearnPlan

WINE, KIND = load_wine(return_X_y=True)
CANCER, ILL = load_breast_cancer(return_X_y=True)
SMALL = (CANCER[:, :6] - CANCER[:, :6].mean(axis=0)) / CANCER[:, :6].std(axis=0)
COUNTED = np.random.default_rng(3).poisson(np.outer(1 + KIND, np.arange(1, 7)))
NUMBERS = SMALL @ np.arange(6) + np.random.default_rng(4).normal(size=len(SMALL)) + 50


def plan_of(make: Any, classes: Any, data: Any, args: Any = None) -> Any:
    class Plan(SklearnPlan):
        def init_estimator(self, model_args: Any) -> Any:
            return make()

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            return dataset

    plan = Plan()
    plan.ctx = Context(node="a", round=1, job_seed=3, seed=11)
    plan.build(
        {"num_features": data[0].shape[1], **({} if classes is None else {"classes": classes})}, args or {}
    )
    plan.load_data(data)
    return plan


def parts_of(inputs: Any, targets: Any, sizes: tuple[float, ...] = (0.2, 0.5)) -> list[Any]:
    """Return three nodes of unequal size whose rows differ in kind: sorted by target, then cut."""
    order = np.argsort(targets, kind="stable")
    cuts = [int(share * len(order)) for share in sizes]
    return [(inputs[rows], targets[rows]) for rows in np.split(order, cuts)]


def federated(make: Any, classes: Any, parts: list[Any], rounds: int, args: Any = None) -> Any:
    """Return a plan with what `rounds` rounds of FedAvg at the nodes give."""
    plans = [plan_of(make, classes, part, args) for part in parts]
    protocol = FedAvg()
    state = protocol.start(plans[0].get_params())
    for round_ in range(1, rounds + 1):
        given = []
        for plan in plans:
            plan.ctx.round = round_
            plan.start_step(args or {})
            plan.set_params(state["params"])
            given.append(Contribution(outcome_params(plan), float(len(plan._data[1])), {}))
        state = protocol.finish(
            state, Gathered(total=WeightedMean().aggregate(given), replies={}, left_out={})
        )
    plans[0].set_params(state["params"])
    return plans[0]


def outcome_params(plan: Any) -> Any:
    assert plan.train_locally().num_updates >= 1
    return plan.get_params()


BAYES = {
    "gaussian": (GaussianNB, WINE, ("theta_", "var_", "class_prior_", "epsilon_")),
    "gaussian, priors": (
        lambda: GaussianNB(priors=[0.2, 0.3, 0.5], var_smoothing=1e-3),
        WINE,
        ("theta_", "var_"),
    ),
    "gaussian, far from zero": (GaussianNB, WINE + 1e6, ("theta_", "var_")),
    "multinomial": (MultinomialNB, COUNTED, ("feature_log_prob_", "class_log_prior_", "feature_count_")),
    "multinomial, smooth": (
        lambda: MultinomialNB(alpha=7.0, fit_prior=False),
        COUNTED,
        ("feature_log_prob_",),
    ),
    "bernoulli": (lambda: BernoulliNB(binarize=4.0), COUNTED, ("feature_log_prob_", "class_log_prior_")),
    "complement": (lambda: ComplementNB(norm=True), COUNTED, ("feature_log_prob_", "feature_all_")),
}


@pytest.mark.parametrize(("make", "inputs", "names"), BAYES.values(), ids=BAYES)
def test_naive_bayes_equals_scikit_learn_on_the_rows_together(make: Any, inputs: Any, names: Any) -> None:
    whole = make().fit(inputs, KIND)
    found = federated(make, [0, 1, 2], parts_of(inputs, KIND), rounds=2).model
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-6, err_msg=name)
    assert (found.predict(inputs) == whole.predict(inputs)).all()
    np.testing.assert_allclose(found.predict_proba(inputs), whole.predict_proba(inputs), rtol=1e-4, atol=1e-8)


def test_one_round_of_naive_bayes_suffices() -> None:
    found = federated(GaussianNB, [0, 1, 2], parts_of(WINE, KIND), rounds=1).model
    np.testing.assert_allclose(found.var_, GaussianNB().fit(WINE, KIND).var_, rtol=1e-6)


LEAST = {
    "linear": LinearRegression,
    "linear, no intercept": lambda: LinearRegression(fit_intercept=False),
    "ridge": lambda: Ridge(alpha=20.0),
    "ridge, no intercept": lambda: Ridge(alpha=3.0, fit_intercept=False),
}


@pytest.mark.parametrize("make", LEAST.values(), ids=LEAST)
def test_least_squares_equal_scikit_learn_on_the_rows_together(make: Any) -> None:
    whole = make().fit(SMALL, NUMBERS)
    for rounds in (1, 2):
        plan = federated(make, None, parts_of(SMALL, NUMBERS), rounds)
        np.testing.assert_allclose(plan.model.coef_, whole.coef_, rtol=1e-7)
        np.testing.assert_allclose(plan.model.intercept_, whole.intercept_, rtol=1e-7)
    np.testing.assert_allclose(plan.get_params()["coef_"].numpy(), whole.coef_, rtol=1e-7)
    assert plan.predict_all().shape == (int(0.2 * len(SMALL)),)


def test_least_squares_of_columns_that_depend_on_each_other_are_those_of_scikit_learn() -> None:
    inputs = np.column_stack([SMALL, SMALL[:, 0] + SMALL[:, 1]])
    whole = LinearRegression().fit(inputs, NUMBERS)
    found = federated(LinearRegression, None, parts_of(inputs, NUMBERS), 2).model
    np.testing.assert_allclose(found.predict(inputs), whole.predict(inputs), rtol=1e-8)


LOGISTIC = {
    "two classes": (lambda **o: LogisticRegression(**o), SMALL, ILL),
    "words": (lambda **o: LogisticRegression(C=0.3, **o), SMALL, np.array(["ill", "well"])[ILL]),
    "no intercept": (lambda **o: LogisticRegression(fit_intercept=False, **o), SMALL, ILL),
    "no penalty": (lambda **o: LogisticRegression(C=np.inf, **o), SMALL[:, :2], ILL),
    "three classes": (lambda **o: LogisticRegression(**o), (WINE - WINE.mean(0)) / WINE.std(0), KIND),
    "weights": (lambda **o: LogisticRegression(class_weight={0: 3.0, 1: 0.5}, **o), SMALL, ILL),
    "balanced": (lambda **o: LogisticRegression(class_weight="balanced", **o), SMALL, ILL),
}


@pytest.mark.parametrize(("make", "inputs", "targets"), LOGISTIC.values(), ids=LOGISTIC)
def test_logistic_regression_reaches_scikit_learns_on_the_rows_together(
    make: Any, inputs: Any, targets: Any
) -> None:
    whole = make(tol=1e-10, max_iter=10_000).fit(inputs, targets)
    classes = np.unique(targets).tolist()
    found = federated(make, classes, parts_of(inputs, targets), rounds=15).model
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.intercept_, whole.intercept_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.predict_proba(inputs), whole.predict_proba(inputs), atol=1e-6)


def test_a_newton_step_that_goes_too_far_is_taken_back() -> None:
    """One of two classes in a thousand, far out: a full first step overshoots (the loss would rise for ever)."""
    rng = np.random.default_rng(5)
    inputs = np.concatenate([rng.normal(size=(300, 2)) * [1, 30], [[40.0, 900.0]]])
    targets = np.concatenate([(inputs[:300, 0] + rng.normal(size=300) > 2.5).astype(int), [1]])
    make = lambda **o: LogisticRegression(C=100.0, **o)  # noqa: E731
    whole = make(tol=1e-10, max_iter=100_000, solver="newton-cholesky").fit(inputs, targets)
    found = federated(make, [0, 1], parts_of(inputs, targets), rounds=40).model
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (GaussianNB, KIND),
        (MultinomialNB, KIND),
        (BernoulliNB, KIND),
        (ComplementNB, KIND),
        (LinearRegression, None),
    ],
)
def test_before_the_first_round_every_class_is_as_likely_as_the_others(make: Any, targets: Any) -> None:
    data = (COUNTED, KIND if targets is not None else KIND.astype(float))
    plan = plan_of(make, None if targets is None else [0, 1, 2], data, {"test_ratio": 0.5})
    assert np.isfinite(plan.model.predict(COUNTED)).all()
    if targets is not None:
        np.testing.assert_allclose(plan.model.predict_proba(COUNTED), 1 / 3)
    assert plan.validate()


def test_a_class_that_one_node_lacks_and_one_that_all_lack_do_no_harm() -> None:
    parts = parts_of(COUNTED, KIND)
    for make in (GaussianNB, MultinomialNB):
        found = federated(make, [0, 1, 2, 9], parts, rounds=2).model
        assert set(found.predict(COUNTED)) <= {0, 1, 2}
        assert (found.predict(COUNTED) == make().fit(COUNTED, KIND).predict(COUNTED)).all()


def test_a_pipeline_scales_by_the_moments_of_all_nodes() -> None:
    make = lambda: make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=1))  # noqa: E731
    parts = parts_of(CANCER, ILL)
    first = federated(make, [0, 1], parts, rounds=1, args={"batch_size": 16})
    assert not first.get_params()["coef_"].any()
    whole = StandardScaler().fit(CANCER)
    later = federated(make, [0, 1], parts, rounds=4, args={"batch_size": 16})
    for plan in (first, later):
        np.testing.assert_allclose(plan.model[0].mean_, whole.mean_, rtol=1e-10)
        np.testing.assert_allclose(plan.model[0].scale_, whole.scale_, rtol=1e-8)
    assert (later.model.predict(CANCER) == ILL).mean() > 0.93


def test_a_column_of_one_value_is_not_scaled() -> None:
    inputs = np.column_stack([SMALL, np.full(len(SMALL), 0.1)])
    make = lambda: make_pipeline(StandardScaler(), LinearRegression())  # noqa: E731
    plan = federated(make, None, parts_of(inputs, NUMBERS), rounds=3)
    whole = make().fit(inputs, NUMBERS)
    np.testing.assert_allclose(plan.model[0].scale_, whole[0].scale_)
    np.testing.assert_allclose(plan.model.predict(inputs), whole.predict(inputs), rtol=1e-9)


@pytest.mark.parametrize("flags", [{"with_mean": False}, {"with_std": False}])
def test_a_scaler_keeps_its_own_settings(flags: Any) -> None:
    make = lambda: make_pipeline(StandardScaler(**flags), Ridge(2.0))  # noqa: E731
    plan = federated(make, None, parts_of(SMALL, NUMBERS), rounds=3)
    np.testing.assert_allclose(
        plan.model.predict(SMALL), make().fit(SMALL, NUMBERS).predict(SMALL), rtol=1e-8
    )


def test_balanced_weights_come_from_the_classes_at_all_nodes() -> None:
    make = lambda: SGDClassifier(class_weight="balanced", random_state=2)  # noqa: E731
    plan = federated(make, [0, 1], parts_of(SMALL, ILL), rounds=3)
    counts = np.bincount(ILL)
    expected = {label: len(ILL) / (2 * counts[label]) for label in (0, 1)}
    assert plan.model.class_weight == pytest.approx(expected)
    assert (plan.model.predict(SMALL) == ILL).mean() > 0.85


def test_an_exact_fit_refuses_what_has_no_effect_on_it() -> None:
    for args in ({"batch_size": 8}, {"epochs": 2}, {"num_updates": 3}, {"drop_last": True}):
        with pytest.raises(SpecError, match=f"{next(iter(args))!r} has no effect on a GaussianNB"):
            plan_of(GaussianNB, [0, 1, 2], (WINE, KIND), args)
    plan_of(GaussianNB, [0, 1, 2], (WINE, KIND), {"epochs": 1, "test_ratio": 0.2})


def test_protocols_that_do_more_than_add_up_are_refused_before_the_job_is_made() -> None:
    params = plan_of(GaussianNB, [0, 1, 2], (WINE, KIND)).get_params()
    assert NUM_EXAMPLES in params
    FedAvg().check(params)
    with pytest.raises(SpecError, match="fedopt does more than add them up: use FedAvg"):
        FedOpt().check(params)
    for name in ("fedprox", "scaffold", "fedbuff", "cyclic", "qfedavg", "fednova", "ditto"):
        with pytest.raises(SpecError, match="use FedAvg"):
            PROTOCOLS[name].check(PROTOCOLS.build(name, {"mu": 0.1} if name == "fedprox" else {}), params)


def test_values_that_an_estimator_refuses_are_named() -> None:
    plan = plan_of(MultinomialNB, [0, 1], (SMALL, ILL))
    with pytest.raises(NodeFailure, match="MultinomialNB refuses the data: Negative values"):
        plan.train_locally()


def test_what_the_optimizer_used_is_plain_data() -> None:
    plan = plan_of(lambda: SGDClassifier(alpha=0.01), [0, 1], (SMALL, ILL), {"batch_size": 100})
    plan.train_locally()
    assert plan.optimizer_args["alpha"] == 0.01
    assert plan.optimizer_args["t"] > 1
    assert plan_of(lambda: SGDRegressor(), None, (SMALL, NUMBERS)).optimizer_args["loss"] == "squared_error"
    assert plan_of(lambda: Ridge(2.0), None, (SMALL, NUMBERS)).optimizer_args == {
        "estimator": "Ridge",
        "alpha": 2.0,
    }
