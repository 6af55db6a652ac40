"""FedBuff against numbers worked out by hand from the paper's update rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjob import FedAvg, FedBuff, Job, JobFailed, PowerOfChoice, SpecError, TorchPlan
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import BufferedMean
from fedjob.parameters.files import FileParams
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file, load_breakpoint, save_breakpoint
from fedjob.researcher.storage.folder import JobFolder
from tests.data import TRAINING, make_points
from tests.foreign import accept
from tests.plans import Tiny


class Pull(TorchPlan):
    """One number w that each node pulls half-way to a centre of its own: w + 0.5 * (centre - w)."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        import torch

        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        import torch

        return torch.optim.SGD(model.parameters(), lr=0.5)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        import torch

        return tuple(torch.as_tensor(part, dtype=torch.float32) for part in dataset.arrays())

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        _, centre = batch
        return ((model.weight[0, 0] - centre) ** 2 / 2).mean()


@pytest.fixture
def centres(tmp_path: Path) -> dict[str, str]:
    """Three nodes whose centres are 8, -8 and 16."""
    paths = {}
    for node, centre in {"a": 8.0, "b": -8.0, "c": 16.0}.items():
        paths[node] = str(tmp_path / f"{node}.npz")
        np.savez(paths[node], x=np.zeros((4, 1)), y=np.full(4, centre))
    return paths


def run(protocol: Any, data: dict[str, str], home: Path, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Pull,
        "data": data,
        "nodes": "local",
        "training_args": {"num_updates": 1, "batch_size": 4},
        "rounds": 3,
        "seed": 3,
        "home": home,
        "keep": True,
    }
    job = Job(protocol, **{**arguments, **changes})
    job.run(progress=False)
    return job


def weights(job: Job) -> list[float]:
    """Return w after each round."""
    kept = sorted((job.folder / "breakpoints").glob("round_*"))
    return [float(load_breakpoint(path).position.state["params"]["weight"]) for path in kept]


def test_three_rounds_are_those_of_the_paper_late_changes_with_their_discount(
    centres: dict[str, str], tmp_path: Path
) -> None:
    job = run(FedBuff(k=2), centres, tmp_path)
    # a local node answers when its turn comes, who was asked first goes first
    # 1: a, b, c get 0;     in: a +4, b -4                       w = 0 + (4 - 4) / 2 = 0
    # 2: a, b get 0;        in: c +8 of round 1, a +4            w = (8 / sqrt(2) + 4) / 2 = 4.828427
    # 3: c, a get 4.828427; in: b -4 of round 2, a (8 - 4.828427) / 2 = 1.585786
    #                                        w = 4.828427 + (-4 / sqrt(2) + 1.585786) / 2 = 4.207107
    assert weights(job) == pytest.approx([0.0, 4.828427, 4.207107], abs=1e-5)
    assert [aggregator.arrived for aggregator in job.position.ledger] == [
        [["a", 1], ["b", 1]],
        [["c", 1], ["a", 2]],
        [["b", 2], ["a", 3]],
    ]
    assert sorted(job.position.under_way) == ["c"]
    assert all(info.dropped == {} for info in job.rounds.values())


def test_a_server_step_and_no_discount(centres: dict[str, str], tmp_path: Path) -> None:
    job = run(FedBuff(k=2, server_lr=0.5, staleness_exponent=0), centres, tmp_path, rounds=2)
    assert weights(job) == pytest.approx([0.0, 0.5 * (8 + 4) / 2], abs=1e-6)


def test_a_buffer_of_all_nodes_is_averaging(tmp_path: Path) -> None:
    data = {f"n{k}": str(make_points(tmp_path / f"{k}.npz", 40 + 20 * k, k)) for k in range(2)}
    arguments: dict[str, Any] = {"training_plan": Tiny, "training_args": TRAINING, "validate_at_end": True}
    buffered = run(FedBuff(k=2, weighted=True), data, tmp_path / "buffered", **arguments)
    averaged = run(FedAvg(), data, tmp_path / "averaged", **arguments)
    first, second = (FileParams(job.folder / "result" / "params.safetensors") for job in (buffered, averaged))
    for name in first:
        assert first[name].numpy() == pytest.approx(second[name].numpy(), abs=1e-5)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_job_counts_what_was_under_way_and_ends_in_the_same_bytes(tmp_path: Path, cut: int) -> None:
    data = {f"n{k}": str(make_points(tmp_path / f"{k}.npz", 40, k)) for k in range(3)}
    arguments: dict[str, Any] = {"training_plan": Tiny, "training_args": TRAINING, "rounds": 5}
    whole = run(FedBuff(k=1), data, tmp_path / "whole", keep_breakpoints=5, **arguments)
    moved = tmp_path / "moved"
    (whole.folder / "breakpoints" / f"round_000{cut}").rename(moved)
    resumed = accept(moved, home=tmp_path / "resumed")
    resumed.run(progress=False)
    ends = [hash_file(job.folder / "result" / "params.safetensors") for job in (whole, resumed)]
    assert ends[0] == ends[1]
    assert whole.position.ledger == resumed.position.ledger
    assert [aggregator.arrived[0][1] for aggregator in whole.position.ledger] == [1, 1, 1, 2, 3]


def test_the_order_of_arrival_is_verified(centres: dict[str, str], tmp_path: Path) -> None:
    job = run(FedBuff(k=2), centres, tmp_path)
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"equal"}


def test_only_what_nodes_are_still_at_work_on_is_held(centres: dict[str, str], tmp_path: Path) -> None:
    job = run(FedBuff(k=2), centres, tmp_path, keep=False)
    held = {path.name for path in (job.folder / "held").iterdir()}
    assert held == {work.task.params["params"].sha256 for work in job.position.under_way.values()}
    assert len(held) == 1


def test_the_aggregator_discounts_and_weights() -> None:
    old, new = Contribution(8.0, 30.0, staleness=3), Contribution(4.0, 10.0)
    assert BufferedMean().aggregate([old, new]).value == pytest.approx((8 / 2 + 4) / 2)
    assert BufferedMean(0).aggregate([old, new]).value == pytest.approx(6.0)
    assert BufferedMean(weighted=True).aggregate([old, new]).value == pytest.approx(
        (30 * 8 / 2 + 10 * 4) / 40
    )
    assert (old + new).staleness == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"k": 0}, "1 or more"),
        ({"k": 2.0}, "whole number"),
        ({"server_lr": 0.0}, "above 0"),
        ({"staleness_exponent": -1.0}, "0 or more"),
    ],
)
def test_wrong_settings_name_the_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        FedBuff(**wrong)


def test_a_buffer_larger_than_the_job_is_refused(centres: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"FedBuff\(k=4\) waits for 4 nodes, but the job has 3: a, b, c"):
        run(FedBuff(k=4), centres, tmp_path)


def test_an_order_of_arrival_that_can_not_be_is_found_out(centres: dict[str, str], tmp_path: Path) -> None:
    job = run(FedBuff(k=2), centres, tmp_path, rounds=2)
    found = load_breakpoint(job.folder / "breakpoints" / "round_0002")
    first, second = found.position.ledger
    for arrived, says in (
        ([["a", 1], ["c", 1]], "a can't answer in round 2 what it was asked in round 1"),
        ([["b", 2], ["c", 1]], "the contributions that arrived are not those that were aggregated"),
        ([["a", 2], ["c", 2]], "the total does not follow from the replies"),
    ):
        changed = replace(second, arrived=arrived)
        save_breakpoint(JobFolder(job.folder), replace(found.position, ledger=(first, changed)))
        checks = verify_job(JobFolder(job.folder))
        assert [check.verdict for check in checks] == ["equal", "different"]
        assert checks[1].detail == says


def test_a_selector_that_looks_at_losses_leaves_nodes_at_their_work(
    centres: dict[str, str], tmp_path: Path
) -> None:
    job = run(FedBuff(k=1), centres, tmp_path, rounds=3, selector=PowerOfChoice(2, 2), seed=6)
    asks = [(event.body["step"], event.body["nodes"]) for event in job.events() if event.type == "ask"]
    assert asks == [
        ("loss", ["a", "c"]),
        ("train", ["a", "c"]),  # a is in
        ("loss", ["a", "b"]),
        ("train", ["a", "b", "c"]),  # c is in
        ("train", ["a", "b"]),  # both candidates are at work: nobody is asked for a loss, or anything new
    ]
    assert [aggregator.arrived[0] for aggregator in job.position.ledger if aggregator.arrived] == [
        ["a", 1],
        ["c", 1],
        ["a", 2],
    ]
