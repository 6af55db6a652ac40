"""Cross-validation over nodes and over folds of their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedjob import FedAvg, Job, SpecError, cross_validate, simulate
from fedjob.common.errors import JobError, NoTestingStep
from fedjob.training_plans.example_order import split_indices
from fedjob.training_plans.training_args import TrainingArgs
from tests.data import make_points
from tests.plans import Linear, Tiny

ARGS = {"lr": 0.05, "num_updates": 8, "batch_size": 16, "test_ratio": 0.25, "test_metric": ["accuracy"]}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    clinics = {f"clinic-{k}": str(make_points(tmp_path / f"{k}.npz", 31 + k, k)) for k in range(3)}
    return Job(
        FedAvg(),
        training_plan=Tiny,
        data=clinics,
        nodes="local",
        training_args=ARGS,
        rounds=2,
        seed=11,
        home=tmp_path,
    )


def test_one_node_after_another_is_left_out_and_measured_on_with_all_its_rows(job: Job) -> None:
    found = cross_validate(job)
    table = found.table
    assert list(table.part.unique()) == ["clinic-0", "clinic-1", "clinic-2"]
    own = table[table.part == table.node]
    assert list(own.num_examples) == [31, 32, 33]
    for held in found.parts:
        trained_at = set(held.result.history.node)
        assert held.part not in trained_at
        assert len(trained_at) == 3  # two nodes, and all
    assert found.summary.loc["accuracy", "count"] == 3
    assert found.summary.loc["accuracy", "mean"] == pytest.approx(own.value.mean())
    assert job.state == "draft"
    again = Job(
        FedAvg(), training_plan=Tiny, data={n: p for n, p in job.given_data.items() if n != "clinic-1"}, nodes="local",
        training_args=ARGS, rounds=2, seed=11, home=job.folder.parent.parent,
    )  # fmt: skip
    again.run(progress=False)
    mine, theirs = again.result.params, found.parts[1].result.params
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_simulated_nodes_are_left_out_as_local_ones_are(job: Job, tmp_path: Path) -> None:
    arrays = {node: tuple(np.load(path)[name] for name in "xy") for node, path in job.given_data.items()}
    found = cross_validate(job).table
    simulated = cross_validate(job.clone(data=arrays, nodes=simulate(workers=0))).table
    assert simulated.equals(found)
    divided = job.clone(data=arrays["clinic-0"], nodes=simulate(3, workers=0))
    with pytest.raises(
        SpecError, match=r"give data=\{'node': dataset, ...\}, a map, with nodes=simulate\(\), or take over=5"
    ):
        cross_validate(divided)
    assert len(cross_validate(divided, over=2).parts) == 2


def test_every_row_is_tested_in_exactly_one_fold(job: Job) -> None:
    found = cross_validate(job, over=3)
    table = found.table
    assert list(table.part.unique()) == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    per_node = table[table.node != "all"].groupby("node").num_examples.sum()
    assert per_node.to_dict() == {"clinic-0": 31, "clinic-1": 32, "clinic-2": 33}
    assert found.summary.loc["accuracy", "mean"] > 0.5
    parts = [split_indices(31, TrainingArgs.parse({"test_fold": (i, 3)}), seed=5) for i in (1, 2, 3)]
    assert sorted(np.concatenate([test for _, test in parts]).tolist()) == list(range(31))
    for train, test in parts:
        assert sorted([*train, *test]) == list(range(31))


def test_what_can_not_be_cross_validated_is_refused(job: Job, tmp_path: Path) -> None:
    for over in (1, "rows", True, 2.0):
        with pytest.raises(SpecError, match="over is"):
            cross_validate(job, over=over)  # type: ignore[arg-type]
    one = job.clone(data={"clinic-0": job.given_data["clinic-0"]})
    with pytest.raises(SpecError, match="two or more; the job has clinic-0"):
        cross_validate(one)
    with pytest.raises(NoTestingStep, match="Linear"):
        cross_validate(job.clone(training_plan=Linear), over=2)
    with pytest.raises(SpecError, match="test_fold and test_ratio"):
        job.clone(training_args={**ARGS, "test_fold": [1, 2]})
    for fold in ([0, 2], [3, 2], [1, 1], [1], 2, "12"):
        with pytest.raises(SpecError, match="test_fold"):
            TrainingArgs.parse({"test_fold": fold})
    one.run(progress=False)
    with pytest.raises(JobError, match="completed"):
        cross_validate(one)
