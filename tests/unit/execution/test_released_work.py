"""Under differential privacy nothing leaves a worker but noisy parameters, whatever a plan tries to tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import TorchPlan
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.parameters.files import FileParams, save_params
from fedjob.training_plans.source.extraction import extract
from tests.data import make_points
from tests.private_training import terms


class Talks(TorchPlan):
    """A plan that tells what it sees wherever it can."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(4, 2)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1 + self.ctx.round * 1e-3)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        inputs, labels = dataset.arrays()
        self.ctx.emit("metrics", {"mean": float(inputs.mean())})
        self.ctx.progress(float(inputs[0, 0]), 1.0)
        kept = inputs[:, 0] > 0
        return inputs[kept].astype("float32"), labels[kept]

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        self.ctx.emit("found", row=batch[0].flatten()[:1].detach())
        self.ctx.progress(0.5, 1.0)
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
        return {"largest": float(batch[0].max())}


class Fails(Talks):
    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        raise ValueError(f"secret {float(batch[0].flatten()[0])}")


class FailsAsFedjob(Talks):
    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        raise self.fail("plan", f"secret {float(batch[0].flatten()[0])}")


class Launches(Talks):
    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        self.ctx.launch(len, batch=3)
        return super().training_step(model, batch)


class Mixes(Talks):
    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))


class OwnAnswer(Talks):
    def get_params(self, *, copy: bool = True) -> Any:
        return super().get_params(copy=copy)


def worked(
    folder: Path, plan: Any, *, noise: bool = True, step: str = "train", **changes: Any
) -> tuple[WorkResult, list[Any]]:
    text = extract(plan)
    make_points(folder / "d.npz", 80, 1)
    save_params({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, folder / "p.safetensors")
    for name in ("out", "scratch"):
        (folder / name).mkdir()
    events: list[Any] = []
    order = WorkOrder(
        key="1",
        job="job",
        round=1,
        step=step,
        node="a",
        protocol="fedavg",
        plan_text=text.text,
        entry=text.entry,
        params={"params": str(folder / "p.safetensors")},
        training_args={"batch_size": 20, "num_updates": 3},
        output_path=str(folder / "out"),
        scratch_path=str(folder / "scratch"),
        dataset={"name": "d", "path": str(folder / "d.npz"), "reader": "npz", "num_rows": 80},
        noise=terms().to_plain() if noise else {},
        **changes,
    )
    return Workbench().perform(order, lambda type_, body: events.append((type_, body))), events


def test_parameters_and_public_numbers_are_all_that_leaves(tmp_path: Path) -> None:
    done, events = worked(tmp_path, Talks)
    assert done.ok, done.message
    assert set(FileParams(Path(done.params_path))) == {"weight", "bias"}
    assert (done.num_examples, done.weight, done.rows) == (80, 80.0, {"registered": 80})
    assert (done.value, done.metrics, done.timing, done.optimizer_args) == (None, {}, {}, {})
    assert (done.items, done.used, done.report, done.items_path) == ({}, {}, "", "")
    assert events == [("progress", {"done": done_, "total": 3}) for done_ in (1, 2, 3)]


def test_without_noise_the_same_plan_tells_all_that(tmp_path: Path) -> None:
    done, events = worked(tmp_path, Talks, noise=False)
    assert done.num_examples < 80
    assert done.metrics
    assert done.timing
    assert done.optimizer_args
    assert {type_ for type_, _ in events} >= {"metrics", "progress", "found"}


@pytest.mark.parametrize("plan", [Fails, FailsAsFedjob], ids=lambda plan: plan.__name__)
def test_an_error_tells_its_class_and_its_place_and_no_words_of_the_plan(tmp_path: Path, plan: Any) -> None:
    done, events = worked(tmp_path, plan)
    assert not done.ok
    assert "secret" not in done.detail
    assert "line" in done.detail
    assert "secret" in done.message  # for the owner's log
    assert events == []


@pytest.mark.parametrize(
    ("plan", "reason", "words"),
    [
        (Mixes, "privacy", "GroupNorm or LayerNorm"),
        (OwnAnswer, "privacy", "OwnAnswer.get_params"),
        (Launches, "plan", "ctx.launch works while a node computes a task, not here"),
    ],
)
def test_a_plan_that_cant_be_private_is_refused_by_the_worker_too(
    tmp_path: Path, plan: Any, reason: str, words: str
) -> None:
    done, events = worked(tmp_path, plan)
    assert (done.ok, done.reason, events) == (False, reason, [])
    assert words in done.detail
    assert done.params_path == ""


@pytest.mark.parametrize("step", ["validate", "loss"])
def test_a_step_that_measures_is_refused_by_the_worker_too(tmp_path: Path, step: str) -> None:
    done, _ = worked(tmp_path, Talks, step=step)
    assert (done.ok, done.reason) == (False, "privacy")
    assert "has no noise" in done.detail
