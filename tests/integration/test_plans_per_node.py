"""A plan per node, run: each node computes with its own text, also after a breakpoint has moved house."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Job, TorchPlan
from fedjob.researcher.storage.breakpoints import hash_file
from tests.data import make_points
from tests.foreign import accept


class Still(TorchPlan):
    """Learns nothing."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(4, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.0)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs)[:, 0], targets)


class Learns(Still):
    """Learns."""

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)


class Watches(Still):
    """The researcher's own: says when it is enough."""

    def round_done(self, report):  # type: ignore[no-untyped-def]
        return "enough" if report.round == 2 else None


@pytest.fixture
def clinics(tmp_path: Path) -> dict[str, str]:
    return {name: str(make_points(tmp_path / f"{name}.npz", 60, seed)) for seed, name in enumerate("ab")}


def make_job(clinics: dict[str, str], home: Path, plans: Any, **changes: Any) -> Job:
    arguments = {"rounds": 2, "seed": 3, "training_args": {"num_updates": 5, "batch_size": 8}, **changes}
    return Job(FedAvg(), training_plan=plans, data=clinics, nodes="local", home=home, keep=True, **arguments)


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


@pytest.mark.feature("NV-04", "NV-05", "NV-11", "NV-20")
def test_each_node_trains_with_its_own_plan(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path / "home", {"a": Learns, "b": Still}, rounds=1)
    first = dict(job.training_plan.get_params())
    replies = job.start_nodes_training_round(1)
    moved = {
        reply.node_id: any(
            not torch.equal(value, first[name]) for name, value in (reply.params or {}).items()
        )
        for reply in replies
    }
    job.close()
    assert moved == {"a": True, "b": False}
    assert {plan.partition("@")[0]: nodes for plan, nodes in job.deployment.items()} == {
        "Learns": ["a"],
        "Still": ["b"],
    }


def test_plans_of_nodes_travel_in_breakpoints(clinics: dict[str, str], tmp_path: Path) -> None:
    plans = {"a": Learns, "b": Still}
    whole = make_job(clinics, tmp_path / "one", plans, keep_breakpoints=9)
    whole.run(progress=False)
    expected = digest(whole)
    moved = tmp_path / "elsewhere" / "round_0001"
    shutil.copytree(whole.breakpoints[0], moved)
    shutil.rmtree(tmp_path / "one" / "jobs")
    resumed = accept(moved, home=tmp_path / "two")
    resumed.run(progress=False)
    assert digest(resumed) == expected


@pytest.mark.feature("NV-05")
def test_the_researchers_own_plan_may_end_the_job_and_runs_nowhere_else(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    plans = {
        "hello-numpy-server": (Watches, ["@researcher"]),
        "hello-numpy-client": (Learns, ["a"]),
        "hello-numpy-client3": (Still, ["b"]),
    }
    job = make_job(clinics, tmp_path / "home", plans, rounds=5)
    job.run(progress=False)
    assert sorted(job.rounds) == [1, 2]
    assert {plan.partition("@")[0]: nodes for plan, nodes in job.deployment.items()} == {
        "Learns": ["a"],
        "Still": ["b"],
    }
