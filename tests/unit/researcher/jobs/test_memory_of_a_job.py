"""The memory that a job with a large model takes at the researcher before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedjob import FedAvg, Job, TorchPlan
from fedjob.parameters.files import FileParams
from fedjob.parameters.safetensors_header import ITEM_BYTES
from fedjob.researcher.jobs.job import MAX_HELD_BYTES
from fedjob.researcher.runner.traffic_estimate import _zeros
from fedjob.training_plans.base import TrainingPlan


class Wide(TorchPlan):
    """One layer, as wide as it is asked for."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(model_args["width"], 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch[0]).sum()


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.parametrize(
    ("width", "is_held"), [(10, True), (MAX_HELD_BYTES // 4 - 1000, True), (MAX_HELD_BYTES // 4, False)]
)
def test_a_job_holds_a_small_model_alone_and_builds_a_large_one_again_with_the_same_numbers(
    width: int, is_held: bool, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    job = Job(
        FedAvg(),
        training_plan=Wide,
        data={"site": tmp_path},
        nodes="local",
        model_args={"width": width},
        home=tmp_path / "home",
        seed=3,
    )
    assert ("_built" in vars(job)) == is_held
    [first] = (tmp_path / "home").rglob("*.safetensors")
    plan = job.training_plan
    assert isinstance(plan, TrainingPlan)
    assert plan is job.training_plan, "what somebody has asked for stays"
    params = plan.get_params(copy=False)
    assert all(torch.equal(params[name], tensor) for name, tensor in FileParams(first).items())
    assert params.keys() == FileParams(first).keys()


@pytest.mark.parametrize("kind", sorted(ITEM_BYTES))
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3)])
def test_zeros_are_of_every_dtype_and_shape(kind: str, shape: tuple[int, ...]) -> None:
    found = _zeros({"w": (kind, shape)})["w"]
    assert found.shape == shape
    assert found.element_size() == ITEM_BYTES[kind]
    assert not found.any()


def test_zeros_that_nobody_writes_take_no_memory() -> None:
    before = private_bytes()
    found = _zeros({"w": ("F32", (64 << 20,)), "v": ("BF16", (64 << 20,))})
    assert private_bytes() - before < 40 << 20, "of 384 MiB"
    assert not float(found["w"][::100_000].sum())
