"""The memory of a simulation's driver does not grow with the number of nodes, but with the cohort."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjob import Fraction, Job, TorchPlan, simulate

FEW, MANY = 100, 10_000
COHORT = 2


class Tiny(TorchPlan):
    def init_model(self, model_args: Any) -> Any:
        import torch

        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model: Any, training_args: Any) -> Any:
        import torch

        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()

    def training_step(self, model: Any, batch: Any) -> Any:
        return (model(batch[0]) - batch[1]).square().mean()


def held_and_peak(num_nodes: int, home: Path) -> tuple[int, int]:
    """Run a job and return the bytes that Python holds with its result at hand, and the most of them meanwhile."""
    inputs = np.zeros((MANY, 2), dtype=np.float32)  # as many rows, whatever the number of nodes
    gc.collect()
    tracemalloc.start()
    try:
        job = Job(
            "fedavg",
            training_plan=Tiny,
            data=(inputs, inputs[:, :1]),
            nodes=simulate(num_nodes, workers=0),
            selector=Fraction(COHORT / num_nodes),
            training_args={"num_updates": 1, "batch_size": 1},
            rounds=2,
            seed=1,
            home=home / str(num_nodes),
        )
        result = job.run(progress=False)
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()
        assert len(result.participation) == num_nodes
        return held, peak
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(240)
def test_the_memory_of_the_driver_is_that_of_few_nodes(tmp_path: Path) -> None:
    held_and_peak(FEW + 1, tmp_path)  # what is loaded once is not counted
    few, many = held_and_peak(FEW, tmp_path), held_and_peak(MANY, tmp_path)
    assert many[0] - few[0] < 500_000, "less than 50 bytes for a node"
    assert many[1] - few[1] < 1_500_000
