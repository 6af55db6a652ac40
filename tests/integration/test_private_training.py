"""Jobs under differential privacy of records on sites of this process: what runs, what is refused, and what leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import (
    Cyclic,
    Ditto,
    EarlyStopping,
    FedAdam,
    FedAvg,
    FedBN,
    FedBuff,
    FedNova,
    FedPer,
    FedProx,
    FineTuned,
    Job,
    JobFailed,
    KeepBest,
    PowerOfChoice,
    Protect,
    QFedAvg,
    Quorum,
    RecordDP,
    Scaffold,
    SecAgg,
    SklearnPlan,
    SpecError,
)
from tests.data import make_points
from tests.plans import Grouped, Tiny

ARGS = {"lr": 0.2, "num_updates": 4, "batch_size": 20}
DP = RecordDP(epsilon=6.0, delta=1e-4)


class Logistic(SklearnPlan):
    def init_estimator(self, model_args: Any) -> Any:
        from sklearn.linear_model import SGDClassifier

        return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.3)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()


class Centred(Grouped):
    def training_data(self, dataset: Any, training_args: Any) -> Any:
        inputs, targets = super().training_data(dataset, training_args)
        return inputs - inputs.mean(0), targets


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("points")
    return {name: str(make_points(folder / f"{name}.npz", 80 + 20 * k, k)) for k, name in enumerate("abc")}


def job_of(operation: Any, points: dict[str, str], home: Path, **changes: Any) -> Job:
    about = {"training_plan": Grouped, "training_args": ARGS, "rounds": 2, "protect": DP, "seed": 3}
    return Job(operation, data=points, nodes="local", home=home, **{**about, **changes})


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (FedAvg(), {}),
        (FedAvg(), {"protect": Protect(secagg=SecAgg(), dp=DP)}),
        (FedAvg(), {"server_optimizer": FedAdam(lr=0.01)}),
        (FedAvg(), {"aggregator": "median"}),
        (FedProx(mu=0.1), {}),
        (FedNova(), {}),
        (Scaffold(), {}),
        (Scaffold(kept_by="researcher"), {}),
        (FedPer(personal=["4.*"]), {}),
        (FedPer(personal=["4.*"]), {"protect": Protect(secagg=SecAgg(), dp=DP)}),
        (FedBuff(k=2), {}),
        (Cyclic(), {"rounds": 1}),
        (
            FedAvg(),
            {
                "training_plan": Logistic,
                "model_args": {"num_features": 4, "classes": [0, 1]},
                "training_args": {"num_updates": 4, "batch_size": 20},
            },
        ),
    ],
    ids=str,
)
def test_a_job_ends_with_parameters_and_with_nothing_that_was_measured(
    operation: Any, more: dict[str, Any], points: dict[str, str], tmp_path: Path
) -> None:
    job = job_of(operation, points, tmp_path, **more)
    job.run(progress=False)
    assert all(torch.isfinite(tensor).all() for tensor in job.result.params.values())
    assert job.history.empty
    assert {event.type for event in job.events() if event.node} <= {"state", "progress", "update"}


def test_two_runs_of_a_job_draw_other_noise_and_a_finished_one_stays(
    points: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for _ in range(2):
        job = job_of(FedAvg(), points, tmp_path, rounds=1)
        job.run(progress=False)
        found.append(torch.cat([tensor.flatten() for tensor in job.result.params.values()]))
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_with_little_noise_it_learns(points: dict[str, str], tmp_path: Path) -> None:
    args = {**ARGS, "num_updates": 20, "lr": 0.5}
    dp = RecordDP(epsilon=500.0, delta=1e-4)
    job = job_of(FedAvg(), points, tmp_path, training_args=args, protect=dp)
    job.run(progress=False)
    model = Grouped().init_model({}).eval()
    model.load_state_dict(dict(job.result.params))
    with np.load(points["a"]) as arrays:
        scores = model(torch.as_tensor(arrays["x"], dtype=torch.float32))
        assert (scores.argmax(1).numpy() == arrays["y"]).mean() > 0.8


@pytest.mark.parametrize(
    ("operation", "more", "words"),
    [
        (FedAvg(), {"training_plan": Tiny}, "BatchNorm1d.*use GroupNorm or LayerNorm"),
        (FedBN(), {"training_plan": Tiny}, "use GroupNorm in the model, and FedAvg"),
        (Ditto(), {}, "use FedAvg or FedPer"),
        (FineTuned(num_updates=2), {}, "use FedAvg"),
        (QFedAvg(), {}, "use FedAvg"),
        (Scaffold(option="I"), {}, "use option='II'"),
        (FedAvg(), {"training_args": {**ARGS, "clip_norm": 1.0}}, "max_grad_norm"),
        (
            FedAvg(),
            {"training_args": {**ARGS, "test_on_global_updates": True}},
            "test_on_global_updates has no place",
        ),
        (FedAvg(), {"each": {"a": {"clip_norm": 1.0}}}, "max_grad_norm"),
        (FedAvg(), {"validate_at_end": True}, "leave it out"),
        (FedAvg(), {"training_args": {**ARGS, "test_ratio": 0.2}}, "test_ratio has no place"),
        (FedAvg(), {"hooks": [EarlyStopping()]}, "goes by what nodes measure"),
        (FedAvg(), {"hooks": [KeepBest()]}, "goes by what nodes measure"),
        (FedAvg(), {"selector": PowerOfChoice(2)}, "goes by the losses of nodes"),
    ],
    ids=str,
)
def test_what_cant_be_private_is_refused_when_the_job_is_made(
    operation: Any, more: dict[str, Any], words: str, points: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        job_of(operation, points, tmp_path, **more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"training_plan": Centred}, "privacy: training_data makes another example"),
        ({"training_args": {**ARGS, "batch_size": 41}}, "twice as many rows or more, and there are 80"),
        ({"protect": RecordDP(epsilon=0.02, delta=1e-4)}, "nothing but noise"),
    ],
    ids=str,
)
def test_what_only_a_node_can_see_is_refused_by_each_node_with_the_reason(
    more: dict[str, Any], words: str, points: dict[str, str], tmp_path: Path
) -> None:
    job = job_of(FedAvg(), points, tmp_path, quorum=Quorum(min_nodes=3), **more)
    with pytest.raises(JobFailed, match=words):
        job.run(progress=False)
