"""Training on a GPU: the choice of the device on any machine, and where there is one, what is computed on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedjob import TorchPlan
from fedjob.training_plans.batches import choose_device, to_device
from fedjob.training_plans.context import Context
from tests.parts import need_gpu

RNG = np.random.default_rng(3)
ARRAYS = (RNG.normal(size=(64, 4)).astype(np.float32), RNG.normal(size=(64, 1)).astype(np.float32))


@pytest.fixture
def gpu() -> None:
    need_gpu()


class Mixed(TorchPlan):
    """Trains in mixed precision, from pinned memory."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        examples = torch.utils.data.TensorDataset(*(torch.tensor(part) for part in dataset))
        pinned = torch.cuda.is_available()
        return torch.utils.data.DataLoader(examples, batch_size=16, shuffle=True, pin_memory=pinned)

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        inputs, targets = batch
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            found = model(inputs)
        assert found.dtype == torch.bfloat16
        assert inputs.device.type == self.device.type
        return torch.nn.functional.mse_loss(found.float(), targets)


def trained(**args: Any) -> tuple[Any, list[Any]]:
    events: list[Any] = []
    plan: Any = Mixed()
    plan.ctx = Context(
        node="a", round=1, job_seed=3, seed=11, send=lambda kind, body: events.append((kind, body))
    )
    plan.build(None, {"epochs": 2, **args})
    plan.load_data(ARRAYS)
    plan.train_locally()
    return plan, [body for kind, body in events if kind == "note"]


@pytest.mark.parametrize(("wanted", "share"), [(False, 1.0), (True, 0.0), (False, 0.0)])
def test_without_a_wish_or_a_device_that_is_held_a_plan_computes_on_the_processor(
    wanted: bool, share: float
) -> None:
    assert choose_device(wanted, share) == torch.device("cpu")


def test_what_is_asked_for_is_taken_where_there_is_one() -> None:
    there = torch.cuda.is_available()
    assert choose_device(True, 1.0).type == ("cuda" if there else "cpu")


def test_mixed_precision_is_the_plan_s_and_trains_on_whatever_device_it_has() -> None:
    plan, notes = trained(use_gpu=True)
    assert plan.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert bool(notes) == (plan.device.type == "cpu")
    assert all(tensor.dtype == torch.float32 for tensor in plan.get_params().values())


@pytest.mark.usefixtures("gpu")
def test_parameters_trained_on_a_gpu_are_those_of_the_processor_but_for_rounding() -> None:
    on_gpu, on_cpu = (trained(use_gpu=wanted)[0].get_params() for wanted in (True, False))
    for name, tensor in on_gpu.items():
        assert tensor.device.type == "cpu", "what leaves lies in plain memory"
        torch.testing.assert_close(tensor, on_cpu[name], rtol=0.05, atol=0.02)


@pytest.mark.usefixtures("gpu")
def test_a_worker_with_a_share_of_a_gpu_gets_no_more_of_its_memory() -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    device = choose_device(True, 0.01)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(whole // 20, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("gpu")
def test_tensors_of_pinned_memory_arrive_whole() -> None:
    batch = {"x": torch.arange(1_000_000).pin_memory(), "y": [torch.ones(3)]}
    moved = to_device(batch, torch.device("cuda"))
    assert moved["x"].sum().item() == 499_999_500_000
    assert moved["y"][0].device.type == "cuda"
