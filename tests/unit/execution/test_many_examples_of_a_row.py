"""Plans that make many examples of each row, and what an owner lets a dataset weigh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import FedAvg, Guard, Job, JobFailed, TorchPlan
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.parameters.files import save_params
from fedjob.training_plans.source.extraction import extract
from tests.data import make_points


class Windows(TorchPlan):
    """Three examples of each row."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(4, 2)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        inputs, labels = dataset.arrays()
        return np.concatenate([inputs, inputs + 0.1, inputs - 0.1]), np.concatenate([labels] * 3)

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def worked(folder: Path, **dataset: Any) -> WorkResult:
    plan = extract(Windows)
    make_points(folder / "d.npz", 20, 1)
    save_params({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, folder / "p.safetensors")
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    order = WorkOrder(
        key="1",
        job="job",
        round=1,
        step="train",
        node="a",
        protocol="fedavg",
        plan_text=plan.text,
        entry=plan.entry,
        params={"params": str(folder / "p.safetensors")},
        output_path=str(folder / "out"),
        scratch_path=str(folder / "scratch"),
        dataset={"name": "d", "path": str(folder / "d.npz"), "reader": "npz", **dataset},
    )
    done = Workbench().perform(order, lambda type_, body: None)
    assert done.ok, done.detail
    return done


@pytest.mark.parametrize(("cap", "weight"), [(None, 60), (0, 60), (45, 45), (100, 60)])
def test_a_node_weighs_what_its_examples_and_its_owner_say(
    tmp_path: Path, cap: int | None, weight: float
) -> None:
    done = worked(tmp_path, **({} if cap is None else {"max_weight": cap}))
    assert (done.num_examples, done.weight) == (60, weight)


def test_a_job_of_more_examples_than_rows_trains_and_counts_by_examples(tmp_path: Path) -> None:
    data = {
        name: str(make_points(tmp_path / f"{name}.npz", rows, 1)) for name, rows in (("a", 20), ("b", 40))
    }
    job = Job(FedAvg(), training_plan=Windows, data=data, nodes="local", rounds=1, home=tmp_path / "home")
    job.run(progress=False)
    trained = {row.node: row.num_examples for row in job.position.rows if row.phase == "train"}
    assert (trained["a"], trained["b"]) == (60, 120)
    strict = Job(
        FedAvg(),
        training_plan=Windows,
        data=data,
        nodes="local",
        rounds=1,
        home=tmp_path / "home",
        guard=Guard(max_examples_per_row=1),
    )
    with pytest.raises(JobFailed, match=r"60 examples claimed of 20 rows.*max_examples_per_row=1"):
        strict.run(progress=False)
