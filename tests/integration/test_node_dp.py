"""Jobs under NodeDP on sites of this process: their means, their noise, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import (
    Ditto,
    FedAdam,
    FedAvg,
    FedBN,
    FedNova,
    FedProx,
    Job,
    JobFailed,
    NodeDP,
    Protect,
    QFedAvg,
    Scaffold,
    SecAgg,
    SpecError,
    TorchPlan,
)
from fedjob.privacy.dp.calibration import noise_for
from fedjob.protocols.analytics.statistics import Statistics
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.folder import JobFolder
from tests.data import make_points
from tests.plans import Linear, Tiny

ARGS = {"lr": 0.05, "num_updates": 2, "batch_size": 20}
NUM_NODES = 12
IDLE = 20_000
"""Parameters of `Wide` that no training changes."""


class Wide(TorchPlan):
    """Least squares, with many parameters beside that only noise changes."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Linear(4, 1)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        model.register_parameter("idle", torch.nn.Parameter(torch.full((IDLE,), 3.0)))
        model.register_buffer("batches", torch.tensor(7))
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        model.batches += 1
        return torch.nn.functional.mse_loss(model(inputs)[:, 0], targets)


class Corrected(Wide):
    """A plan whose optimizer can be corrected."""

    aux_modules = ("scaffold",)


class Failing(Wide):
    """One that fails at the sites of few rows."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = Wide.training_data(self, dataset, training_args)
        if len(targets) < 43:
            raise self.fail("no_data", "too few rows")
        return inputs, targets


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return sites of 40 to 51 rows."""
    folder = tmp_path_factory.mktemp("points")
    return {f"n{k:02}": str(make_points(folder / f"{k}.npz", 40 + k, k)) for k in range(NUM_NODES)}


def job_of(data: dict[str, str], home: Path, protect: Any = None, **changes: Any) -> Job:
    about = {"training_plan": Wide, "training_args": ARGS, "rounds": 1, "seed": 3, **changes}
    operation = about.pop("operation", FedAvg())
    return Job(operation, data=data, nodes="local", home=home, protect=protect, **about)


def private(epsilon: float, clip_norm: float = 1.0, **secagg: Any) -> Protect:
    return Protect(secagg=SecAgg(**secagg), dp=NodeDP(epsilon=epsilon, delta=1e-5, clip_norm=clip_norm))


@pytest.mark.parametrize(("plan", "survivors"), [(Wide, 12), (Failing, 9)], ids=["all", "dropouts"])
def test_the_mean_is_unbiased_and_its_noise_is_what_was_promised_with_and_without_dropouts(
    points: dict[str, str], tmp_path: Path, plan: Any, survivors: int
) -> None:
    job = job_of(points, tmp_path, private(50.0, threshold=7), training_plan=plan)
    result = job.run(progress=False)
    noise = result.params["idle"].double() - 3.0
    # of the sum over twice the norm, at seven nodes; the mean of more of them has more noise in all and less in the mean
    promised = 2 * noise_for(50.0, 1e-5) * math.sqrt(survivors / 7) / survivors
    assert noise.std().item() == pytest.approx(promised, rel=0.03)
    assert abs(noise.mean().item()) < 5 * promised / math.sqrt(IDLE)
    assert noise.std().item() * survivors >= 2 * noise_for(
        50.0, 1e-5
    )  # what the sum of any of them has at least
    assert int(result.params["batches"]) == 7


def test_the_mean_is_that_of_the_clipped_updates_where_all_nodes_weigh_alike(
    points: dict[str, str], tmp_path: Path
) -> None:
    about: dict[str, Any] = {"training_plan": Linear}
    plain = job_of(points, tmp_path, aggregator="plain_mean", **about).run(progress=False)
    loose = job_of(points, tmp_path, private(1e7), **about).run(progress=False)
    deviation = 2 * noise_for(1e7, 1e-5) * math.sqrt(12 / 9) / 12
    assert deviation < 0.02
    for name, tensor in plain.params.items():
        assert (loose.params[name] - tensor).abs().max() < 5 * deviation
    change = torch.cat([tensor.flatten() for tensor in plain.params.values()])
    bound = float(change.norm()) / 10
    tight = job_of(points, tmp_path, private(1e7, bound), **about).run(progress=False)
    clipped = torch.cat([tensor.flatten() for tensor in tight.params.values()])
    assert float(clipped.norm()) < bound * 1.1
    assert float(torch.nn.functional.cosine_similarity(clipped, change, dim=0)) > 0.98


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (FedProx(), {}),
        (FedAvg(), {"server_optimizer": FedAdam(lr=0.01)}),
        (Ditto(), {"training_plan": Linear}),
        (FedBN(), {"training_plan": Tiny}),
        (FedAvg(), {"aggregator": "plain_mean"}),
    ],
    ids=str,
)
def test_protocols_of_one_update_run_and_tell_nothing_beside_it(
    points: dict[str, str], tmp_path: Path, operation: Any, more: dict[str, Any]
) -> None:
    four = {name: points[name] for name in sorted(points)[:4]}
    job = job_of(
        four,
        tmp_path,
        private(8.0),
        operation=operation,
        **more,
        rounds=2,
        keep=True,
    )
    job.run(progress=False)
    assert not job.position.rows  # no metric, no loss, no number of examples
    replies = (
        [row for frame in job.result.training_replies for row in frame] if hasattr(job.result, "x") else []
    )
    assert not replies
    (note,) = [event.body["text"] for event in job.events() if event.type == "note"]
    assert "all 2 rounds together tell no more than epsilon=8 with delta=1e-05" in note
    assert sorted(job.result.epsilon) == sorted(four)
    assert all(7.9 < epsilon <= 8.0 for epsilon in job.result.epsilon.values())
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"secure sum"}


def test_the_cost_is_known_before_the_job_and_what_is_refused_has_its_reason(
    points: dict[str, str], tmp_path: Path
) -> None:
    found = job_of(points, tmp_path, private(8.0), rounds=3).estimate()
    assert all(7.9 < one.cost <= 8.0 and not one.problem for one in found)
    assert len(found) == NUM_NODES


def test_two_runs_of_a_private_job_have_other_noise(points: dict[str, str], tmp_path: Path) -> None:
    one, other = (
        job_of(points, tmp_path / str(k), private(8.0)).run(progress=False).params["idle"] for k in range(2)
    )
    assert (one - other).abs().mean() > 0.1
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.05


@pytest.mark.parametrize(
    ("operation", "more", "words"),
    [
        (FedNova(), {}, "fednova does not run under NodeDP: a node also says how many steps"),
        (
            Scaffold(),
            {"training_plan": Corrected},
            "scaffold does not run under NodeDP: a node also sends its control variates",
        ),
        (QFedAvg(), {}, "qfedavg does not run under NodeDP: each node also reports its loss"),
        (Statistics(mean=["age"]), {"training_plan": None}, "statistics do not run under NodeDP"),
        (FedAvg(), {"validate_at_end": True}, "validate the result on data of your own"),
        (
            FedAvg(),
            {"training_args": {**ARGS, "test_on_global_updates": True}},
            "test_on_global_updates asks for metrics",
        ),
        (
            FedAvg(),
            {"each": {"n01": {"test_on_local_updates": True}}},
            "test_on_local_updates asks for metrics",
        ),
        (FedAvg(), {"aggregator": "sum"}, "all nodes weigh alike in a mean"),
    ],
    ids=["fednova", "scaffold", "qfedavg", "statistics", "validation", "metrics", "metrics of one", "sum"],
)
def test_what_is_more_than_one_update_is_refused_when_the_job_is_made(
    points: dict[str, str], tmp_path: Path, operation: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        job_of(points, tmp_path, private(8.0), operation=operation, **more)


@pytest.mark.parametrize(
    ("plan", "secagg", "words"),
    [
        (Tiny, {}, "running variances negative.*GroupNorm.*FedBN"),
        (Wide, {"bits": 16}, r"16 bits are too few for the noise.*SecAgg\(bits=32\)"),
    ],
    ids=["batch norm", "bits"],
)
def test_models_and_grids_that_noise_does_not_go_with_are_refused_before_anything_is_trained(
    points: dict[str, str], tmp_path: Path, plan: Any, secagg: dict[str, Any], words: str
) -> None:
    job = job_of(points, tmp_path, private(8.0, **secagg), training_plan=plan)
    with pytest.raises((SpecError, JobFailed), match=words):
        job.run(progress=False)
    assert not [event for event in job.events() if event.type == "state" and event.node]
