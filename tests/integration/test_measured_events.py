"""What every algorithm tells of its measurements, in one form."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob import FedAvg, Job, SklearnPlan
from fedjob.metrics.event import measured
from fedjob.researcher.storage.event import format_event
from tests.data import make_points
from tests.plans import Tiny


class LinearRegression(SklearnPlan):
    """A plane through points."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        from sklearn.linear_model import SGDRegressor

        return SGDRegressor()

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()


def test_two_nodes_that_train_three_epochs_tell_of_each_epoch(tmp_path: Path) -> None:
    data = {name: make_points(tmp_path / f"{name}.npz", 40, seed) for seed, name in enumerate("ab")}
    args = {"lr": 0.05, "epochs": 3, "batch_size": 8, "log_interval": 100}
    job = Job(FedAvg(), training_plan=Tiny, data=data, nodes="local", home=tmp_path, training_args=args)
    job.run(progress=False)
    told = job.events(type="metrics")
    found = [(e.node, e.round, e.body["epoch"], e.body["epochs"]) for e in told]
    assert sorted(found) == [(node, 1, epoch, 3) for node in "ab" for epoch in (1.0, 2.0, 3.0)]
    assert all(set(e.body["values"]) == {"loss"} for e in job.events(type="metrics"))


@pytest.mark.feature("TB-77")
def test_each_node_tells_of_its_training_and_of_its_tests_with_the_number_of_test_records(
    tmp_path: Path,
) -> None:
    data = {"a": make_points(tmp_path / "a.npz", 40, 1), "b": make_points(tmp_path / "b.npz", 60, 2)}
    args = {"lr": 0.05, "epochs": 1, "batch_size": 8, "test_ratio": 0.25, "test_on_local_updates": True}
    job = Job(FedAvg(), training_plan=Tiny, data=data, nodes="local", home=tmp_path, training_args=args)
    result = job.run(progress=False)
    told = list(job.events(type="metrics"))
    tests = {e.node: e for e in told if e.body["phase"] == "after"}
    assert {node: e.body["samples"] for node, e in tests.items()} == {"a": 10, "b": 15}
    assert {e.node for e in told if e.body["phase"] == "train"} == {"a", "b"}
    shown = {node: format_event(event)[0][0] for node, event in tests.items()}
    assert "after on 10 records: " in shown["a"]
    assert "after on 15 records: " in shown["b"]
    rows = result.history[["node", "phase", "num_examples"]].drop_duplicates().itertuples(index=False)
    assert {tuple(row) for row in rows if row.phase == "after"} == {
        ("a", "after", 10),
        ("b", "after", 15),
        ("all", "after", 25),
    }
    for node, event in tests.items():
        of_node = (result.history.node == node) & (result.history.phase == "after")
        (kept,) = result.history[of_node].itertuples()
        assert event.body["values"] == {kept.metric: pytest.approx(kept.value)}


@pytest.mark.feature("FB-64", "FB-67")
def test_replies_of_both_kinds_of_plan_have_what_the_optimizer_used(tmp_path: Path) -> None:
    data = {"a": make_points(tmp_path / "a.npz", 40, 1)}
    found = {}
    for plan, model_args in ((Tiny, {}), (LinearRegression, {"num_features": 4})):
        job = Job(
            FedAvg(),
            training_plan=plan,
            data=data,
            nodes="local",
            home=tmp_path,
            model_args=model_args,
            training_args={"epochs": 1, "batch_size": 8, **({"lr": 0.05} if plan is Tiny else {})},
        )
        (reply,) = job.start_nodes_training_round(1)
        job.close("killed")
        found[plan] = reply["optimizer_args"]
        assert found[plan] == reply.optimizer_args
    (group,) = found[Tiny]["groups"]
    assert (found[Tiny]["optimizer"], group["lr"], group["momentum"]) == ("SGD", 0.05, 0.9)
    assert found[LinearRegression]["estimator"] == "SGDRegressor"
    assert found[LinearRegression]["eta0"] == 0.01
    assert found[LinearRegression]["learning_rate"] == "invscaling"


@pytest.mark.feature("TB-78")
def test_a_regression_tells_metrics_like_any_other_plan_under_its_own_name(tmp_path: Path) -> None:
    job = Job(
        FedAvg(),
        training_plan=LinearRegression,
        data=make_points(tmp_path / "p.npz", 40, 1),
        nodes="local",
        home=tmp_path,
        model_args={"num_features": 4},
        training_args={"epochs": 1, "batch_size": 8, "test_ratio": 0.25, "test_on_local_updates": True},
    )
    job.run(progress=False)
    told = list(job.events(type="metrics"))
    assert {event.body["source"] for event in told} == {"LinearRegression"}
    assert [set(event.body["values"]) for event in told] == [{"loss"}, {"mse"}]


def test_numbers_and_values_that_a_plan_gives_are_put_together() -> None:
    body = measured({"epoch": 2, "auc": 0.5, "values": {"f1": 0.25}, "note": "x"}, "Mine")
    assert body["values"] == {"f1": 0.25, "auc": 0.5}
    assert measured({"loss": 1.0, "source": "inner"}, "Mine")["source"] == "inner"
