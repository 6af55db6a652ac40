from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job
from fedjob.common.errors import FedjobError, SpecError
from fedjob.training_plans.schedules import CosineDecay, LinearDecay, Piecewise, StepDecay, declared
from fedjob.training_plans.training_args import HYPERPARAMETERS, TrainingArgs, check_rounds, merged_args
from tests.data import TRAINING, make_points
from tests.plans import Tiny

VALID = {
    "epochs": [1, 30],
    "num_updates": [1, 10_000],
    "batch_size": [1, 256],
    "batch_maxnum": [1, None],
    "drop_last": [True, False],
    "test_ratio": [0, 0.2, 1],
    "test_fold": [(1, 5), (5, 5), None],
    "test_on_local_updates": [True, False],
    "test_on_global_updates": [True, False],
    "test_metric": ["accuracy", ["f1", "ROC_AUC"], None],
    "log_interval": [1, 100],
    "random_seed": [0, 42, None],
    "use_gpu": [True, False],
    "share_persistent_buffers": [True, False],
    "dry_run": [True, False],
    "lr": [1e-3, 1],
    "learning_rate": [0.1],
    "weight_decay": [0, 1e-4],
    "momentum": [0.0, 0.9],
    "dampening": [0],
    "dropout": [0.5],
    "nesterov": [True],
    "betas": [[0.9, 0.999], (0.9, 0.99)],
    "eps": [1e-8],
    "clip_norm": [1.0],
    "optimizer": ["adam"],
    "gamma": [0.1],
    "step_size": [10],
    "alpha": [0.99],
}
INVALID = {
    "epochs": [0, -1, 1.5, "2", True],
    "num_updates": [0, -5, 2.0, "ten", False],
    "batch_size": [0, -1, 4.0, None, "8"],
    "batch_maxnum": [0, 1.5],
    "drop_last": [1, "yes"],
    "test_fold": [(6, 5), (0, 5), (1, 1), 2, "1/5"],
    "test_ratio": [-0.1, 1.1, "0.2", True, float("nan")],
    "test_on_local_updates": [1, "true"],
    "test_on_global_updates": [0, None],
    "test_metric": ["acuracy", ["f1", 3], 7],
    "log_interval": [0, 0.5],
    "random_seed": [-1, 1.0, 2**63],
    "use_gpu": ["cuda", 1],
    "share_persistent_buffers": [0],
    "dry_run": ["no"],
    "lr": [-1e-3, "0.1", True, float("inf"), float("nan")],
    "learning_rate": [-1],
    "weight_decay": [-1e-4],
    "momentum": [-0.9, "high"],
    "dampening": [-1],
    "dropout": [-0.5],
    "eps": [0],
    "clip_norm": [0],
    "betas": [[0.9, object()]],
    "optimizer": [object()],
    "gamma": [float("inf")],
    "step_size": [{1: 2}],
    "alpha": [{"a": {1}}],
    "nesterov": [object()],
}


@pytest.mark.feature("FB-06")
@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in VALID.items() for v in values])
def test_each_argument_takes_what_it_is_for(name: str, value: Any) -> None:
    args = TrainingArgs.parse({name: value})
    assert args.for_user()[name] == value
    assert args.to_dict() == {name: value}


@pytest.mark.feature("FB-06")
@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in INVALID.items() for v in values])
def test_each_argument_refuses_what_it_is_not_for(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=name) as caught:
        TrainingArgs.parse({name: value})
    assert isinstance(caught.value, FedjobError)
    assert isinstance(caught.value, ValueError)


def test_every_argument_has_a_valid_and_an_invalid_example() -> None:
    own = {f.name for f in dataclasses.fields(TrainingArgs)} - {"raw", "test_metric_args"}
    assert own | set(HYPERPARAMETERS) == VALID.keys() == INVALID.keys()


@pytest.mark.feature("FB-06")
def test_epochs_and_num_updates_exclude_each_other() -> None:
    with pytest.raises(SpecError, match=r"epochs=2 and num_updates=5; give one"):
        TrainingArgs.parse({"epochs": 2, "num_updates": 5})
    assert TrainingArgs.parse({"epochs": None, "num_updates": 5}).num_updates == 5


def test_without_either_a_round_is_one_epoch() -> None:
    assert TrainingArgs.parse().epochs == 1
    assert TrainingArgs.parse({"num_updates": 3}).epochs is None


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("epoch", "epochs"), ("batchsize", "batch_size"), ("LR", "lr"), ("metric", "test_metric")],
)
def test_an_unknown_key_names_the_nearest_known_one(wrong: str, nearest: str) -> None:
    with pytest.raises(SpecError, match=f"unknown key '{wrong}'; the nearest known one is '{nearest}'"):
        TrainingArgs.parse({wrong: 1})


def test_an_unknown_key_that_is_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(
        SpecError, match=r"unknown key 'hidden'; the known ones are alpha, .*, weight_decay\. A plan"
    ):
        TrainingArgs.parse({"hidden": 1})


@pytest.mark.parametrize(
    "name", ["dp", "fedprox_mu", "rounds", "device", "amp", "num_workers", "seed", "lr_scheduler", "patience"]
)
def test_what_belongs_elsewhere_says_where(name: str) -> None:
    with pytest.raises(SpecError, match=f"does not take '{name}': "):
        TrainingArgs.parse({name: 1})


def test_a_plan_may_declare_keys_of_its_own() -> None:
    args = TrainingArgs.parse({"temperature": 2, "lr": 1}, extra_args=("temperature",))
    assert args.for_user()["temperature"] == 2
    with pytest.raises(SpecError, match="temperature"):
        TrainingArgs.parse({"temprature": 2}, extra_args=("temperature",))


def test_the_users_view_is_read_only_and_names_what_is_missing() -> None:
    view = TrainingArgs.parse({"lr": 0.1}).for_user()
    assert view["batch_size"] == 32
    assert {**view}["lr"] == 0.1
    with pytest.raises(TypeError):
        view["lr"] = 1  # type: ignore[index]
    with pytest.raises(KeyError, match="training_args has no 'momentum'; it has"):
        view["momentum"]
    assert view.get("momentum", 0) == 0


def test_metric_options_are_checked() -> None:
    args = TrainingArgs.parse({"test_metric": "f1", "test_metric_args": {"f1": {"average": "macro"}}})
    assert args.test_metric_args == {"f1": {"average": "macro"}}
    for wrong in ({"f1": {"average": "mean"}}, {"f1": {"zero": 1}}, {"mse": {}}, 3, {"f1": 1}):
        with pytest.raises(SpecError):
            TrainingArgs.parse({"test_metric": "f1", "test_metric_args": wrong})


@pytest.mark.parametrize("raw", [3, "epochs=1", [("epochs", 1)], {1: 2}])
def test_what_is_no_dictionary_of_names_is_refused(raw: Any) -> None:
    with pytest.raises(SpecError, match="training_args"):
        TrainingArgs.parse(raw)


def test_epochs_stand_in_for_updates_and_the_reverse() -> None:
    base = {"num_updates": 10, "lr": 0.1}
    assert merged_args(base, {"epochs": 2}) == {"epochs": 2, "lr": 0.1}
    assert merged_args({"epochs": 2}, {"num_updates": 3, "lr": 1}) == {"num_updates": 3, "lr": 1}
    assert merged_args(base, {"lr": 1, "epochs": None}) == {"num_updates": 10, "lr": 1, "epochs": None}
    assert base == {"num_updates": 10, "lr": 0.1}


class TestRounds:
    """Values are checked when the job is made, in all its rounds."""

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ({"lr": Piecewise({1: 0.1, 7: -0.1})}, "in round 7: training_args 'lr' is 0 or more, not -0.1"),
            ({"epochs": LinearDecay(3, 1, 4)}, "in round 1: training_args 'epochs' is a whole number"),
            ({"batch_size": Piecewise({1: 8, 5: "all"})}, "in round 5: training_args 'batch_size'"),
            ({"epochs": Piecewise({1: None, 3: 2}), "num_updates": 5}, r"in round 3: .*give one of the two"),
            ({"test_metric": Piecewise({1: "mse", 2: "msq"})}, r"in round 2: .*test_metric"),
            ({"lr": 0}, "'lr' is greater than 0 in some round, not 0 in all"),
            ({"learning_rate": Piecewise({1: 0.0})}, "'learning_rate' is greater than 0 in some round"),
            ({"eps": LinearDecay(1e-8, 0.0, 10)}, "in round 10: training_args 'eps' is greater than 0"),
        ],
    )
    def test_a_wrong_value_names_its_round(self, args: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            check_rounds(declared(args), 10)

    @pytest.mark.parametrize("schedule", [LinearDecay(0.1, 0.0, 3), CosineDecay(0.1, 3, end=0.0)])
    def test_a_learning_rate_may_end_at_0(self, schedule: Any) -> None:
        check_rounds(declared({"lr": schedule}), 10)

    def test_only_the_rounds_of_the_job_count(self) -> None:
        args = declared({"lr": Piecewise({1: 0.1, 7: -0.1})})
        check_rounds(args, 6)
        with pytest.raises(SpecError, match="in round 7"):
            check_rounds(args, 7, first=7)
        check_rounds(declared({"lr": Piecewise({1: -1.0, 2: 0.1})}), 9, first=2)
        check_rounds(declared({"lr": StepDecay(0.1)}), 2**62)  # an endless job

    def test_a_job_is_refused_when_it_is_made_and_when_it_gets_more_rounds(self, tmp_path: Path) -> None:
        data = {name: str(make_points(tmp_path / f"{name}.npz", 20, 1)) for name in "ab"}
        more: dict[str, Any] = {
            "training_plan": Tiny,
            "data": data,
            "nodes": "local",
            "home": tmp_path / "home",
        }
        falls = {**TRAINING, "lr": Piecewise({1: 0.1, 3: -1.0})}
        with pytest.raises(SpecError, match="in round 3: training_args 'lr'"):
            Job(FedAvg(), rounds=3, training_args=falls, **more)
        with pytest.raises(SpecError, match="in round 3: training_args 'lr'"):
            Job(FedAvg(), rounds=3, training_args=TRAINING, each={"b": {"lr": falls["lr"]}}, **more)
        job = Job(FedAvg(), rounds=2, training_args=falls, **more)
        job.run(progress=False)
        with pytest.raises(SpecError, match="in round 3: training_args 'lr'"):
            Job.resume(job.breakpoints[-1], rounds=3)
        with pytest.raises(SpecError, match="in round 3: training_args 'lr'"):
            job.clone(rounds=3)

    def test_a_rate_that_falls_to_0_trains_to_the_end(self, tmp_path: Path) -> None:
        data = {"a": str(make_points(tmp_path / "a.npz", 20, 1))}
        job = Job(
            FedAvg(),
            training_plan=Tiny,
            data=data,
            nodes="local",
            home=tmp_path / "home",
            rounds=2,
            training_args={**TRAINING, "lr": LinearDecay(0.1, 0.0, 2)},
        )
        job.run(progress=False)
        assert job.position.round == 2
