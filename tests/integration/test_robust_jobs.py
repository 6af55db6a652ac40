"""Jobs with a liar among their nodes, and with a say in who takes part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedjob import (
    FedAvg,
    Guard,
    Job,
    JobFailed,
    Krum,
    Median,
    NormBounded,
    OverSelection,
    PowerOfChoice,
    SpecError,
    TrimmedMean,
)
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.folder import JobFolder
from tests.data import make_points
from tests.plans import Linear, Tiny

ARGS = {"lr": 0.05, "num_updates": 2, "batch_size": 50}
HONEST = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return five nodes; the targets of `liar` are a million times too large."""
    data = tmp_path_factory.mktemp("data")
    found = {node: str(make_points(data / f"{node}.npz", 50, k)) for k, node in enumerate(HONEST)}
    with np.load(make_points(data / "liar.npz", 50, 9)) as points:
        np.savez(data / "liar.npz", x=points["x"], y=points["y"] * 10**6)
    return {**found, "liar": str(data / "liar.npz")}


@pytest.fixture(scope="module")
def honest(clinics: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Return what comes out without the liar."""
    job = make_job({node: clinics[node] for node in HONEST}, tmp_path_factory.mktemp("home"))
    job.run(progress=False)
    return weights(job)


def make_job(clinics: dict[str, str], home: Path, **changes: object) -> Job:
    arguments: dict[str, object] = {
        "training_plan": Linear,
        "data": clinics,
        "nodes": "local",
        "training_args": ARGS,
        "rounds": 2,
        "seed": 11,
        "home": home,
    }
    return Job(FedAvg(), **{**arguments, **changes})  # type: ignore[arg-type]


def weights(job: Job) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in job.result.params.values()])


def left_out(job: Job) -> list[dict[str, str]]:
    return [event.body["left_out"] for event in job.events() if event.type == "round"]


def taken(job: Job) -> list[list[str]]:
    return [event.body["nodes"] for event in job.events() if event.type == "round"]


@pytest.mark.parametrize("aggregator", [Median(), TrimmedMean(1), Krum(1), "geometric_median"], ids=repr)
def test_an_aggregator_that_bears_liars_ends_near_the_honest_model_and_can_be_verified(
    clinics: dict[str, str], honest: torch.Tensor, tmp_path: Path, aggregator: object
) -> None:
    job = make_job(clinics, tmp_path, aggregator=aggregator, keep=True)
    job.run(progress=False)
    assert torch.dist(weights(job), honest) < 0.3
    assert [check.verdict for check in verify_job(JobFolder(job.folder))] == ["equal", "equal"]


def ends(values, weights):  # type: ignore[no-untyped-def]
    """Return what lies in the middle between the first and the last node."""
    return {name: (values[0][name] + values[-1][name]) / 2 for name in values[0]}


def first_number(values, weights):  # type: ignore[no-untyped-def]
    return values[0]["bias"].item()


def test_a_function_of_the_researchers_folds(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job({node: clinics[node] for node in "abc"}, tmp_path, aggregator=ends, rounds=1)
    job.run(progress=False)
    two = make_job({node: clinics[node] for node in "ac"}, tmp_path, aggregator="plain_mean", rounds=1)
    two.run(progress=False)
    assert torch.allclose(weights(job), weights(two))
    with pytest.raises(JobFailed, match="aggregator first_number has to return a map"):
        make_job(clinics, tmp_path, aggregator=first_number).run(progress=False)


def test_a_bound_on_updates_leaves_out_or_scales_down_what_is_longer(
    clinics: dict[str, str], honest: torch.Tensor, tmp_path: Path
) -> None:
    guarded = make_job(clinics, tmp_path, guard=Guard(max_norm=10.0))
    guarded.run(progress=False)
    assert taken(guarded) == [list(HONEST)] * 2
    assert all(why["liar"].startswith("long_update: the update is ") for why in left_out(guarded))
    assert torch.equal(weights(guarded), honest)
    scaled = make_job(clinics, tmp_path, aggregator=NormBounded(1.0), rounds=1)
    scaled.run(progress=False)
    assert taken(scaled) == [[*HONEST, "liar"]]
    assert torch.linalg.vector_norm(weights(scaled)) <= 1.0  # it began at zero


def test_an_aggregator_that_needs_more_nodes_is_refused_before_anything_is_asked(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"Krum\(.*\) needs 5 nodes or more, but nodes names 2"):
        make_job(clinics, tmp_path, aggregator=Krum(1), nodes=["a", "b"], data=None)
    few = make_job({node: clinics[node] for node in HONEST}, tmp_path, aggregator=Krum(1))
    with pytest.raises(SpecError, match="needs 5 nodes or more, but 4 have the job's data"):
        few.run(progress=False)
    chosen = make_job(clinics, tmp_path, aggregator=Krum(1), selector="fraction")
    chosen = chosen.clone(selector=PowerOfChoice(2, 3))
    with pytest.raises(JobFailed, match="needs 5 nodes or more, but round 1 asks 2"):
        chosen.run(progress=False)
    assert not [event for event in chosen.events() if event.type == "ask" and event.body["step"] == "train"]
    with pytest.raises(SpecError, match="needs 6 nodes or more"):
        make_job(clinics, tmp_path, selector=OverSelection(6)).run(progress=False)


def test_an_aggregator_of_too_few_answers_does_not_count(clinics: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="4"):
        make_job(clinics, tmp_path, aggregator=Krum(1), guard=Guard(max_norm=10.0)).run(progress=False)


class StopsAfter(Hook):
    """Ends a job so that it can be resumed."""

    def __init__(self, round_: int) -> None:
        self.round = round_

    def round_done(self, report: RoundReport) -> str | None:
        return "enough" if report.round == self.round else None


def test_power_of_choice_trains_where_the_loss_is_largest_and_resumes_to_the_same_bytes(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path, selector=PowerOfChoice(2, 5), rounds=3)
    job.run(progress=False)
    assert all("liar" in nodes and len(nodes) == 2 for nodes in taken(job))
    asked = [
        (event.round, event.body["step"], len(event.body["nodes"]))
        for event in job.events()
        if event.type == "ask"
    ]
    assert asked == [(r, step, n) for r in (1, 2, 3) for step, n in (("loss", 5), ("train", 2))]
    assert set(job.result.history.phase) == {"train"}
    cut = make_job(clinics, tmp_path, selector=PowerOfChoice(2, 5), rounds=3, hooks=[StopsAfter(1)])
    cut.run(progress=False)
    again = Job.resume(cut.breakpoints[-1], rounds=3, hooks=[])
    again.run(progress=False)
    assert torch.equal(weights(again), weights(job))
    with pytest.raises(SpecError, match="power_of_choice goes by the losses"):
        Job(
            "evaluation",
            training_plan=Tiny,
            data=clinics,
            nodes="local",
            selector="power_of_choice",
            home=tmp_path,
        )


def test_over_selection_goes_on_with_the_first_answers(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path, selector=OverSelection(2, extra_fraction=1.0))
    job.run(progress=False)
    assert [len(nodes) for nodes in taken(job)] == [2, 2]
    assert [len(why) for why in left_out(job)] == [2, 2]
