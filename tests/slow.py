"""A plan that takes its time, as a user's file, and waiting for what jobs that run it do."""

from __future__ import annotations

from pathlib import Path

from fedjob import Job
from fedjob.training_plans.source.extraction import extract
from tests.plans import Tiny
from tests.processes import wait_until

SLOW = """\
import time

import torch
from fedjob import TorchPlan


class Slow(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(4, 2)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args.get("lr", 0.1))

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        time.sleep({seconds})
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)
"""

GATED = """\


import os
import time


class Gated(Tiny):
    def training_step(self, model, batch):
        while self.ctx.round > {after} and not os.path.exists({gate!r}):
            time.sleep(0.02)
        return super().training_step(model, batch)
"""


def slow_plan(folder: Path, seconds: float) -> str:
    """Write a plan that sleeps before every update; return "path:Slow"."""
    path = folder / f"slow_{seconds}.py"
    path.write_text(SLOW.format(seconds=seconds))
    return f"{path}:Slow"


def gated_plan(folder: Path, gate: Path, *, after: int) -> str:
    """Write `Tiny` so that it trains beyond round `after` only while `gate` is there; return "path:Gated"."""
    path = folder / "gated.py"
    path.write_text(extract(Tiny).text + GATED.format(after=after, gate=str(gate)))
    return f"{path}:Gated"


def until(job: Job, *states: str, timeout_s: float) -> None:
    """Wait for a job to be in one of these states."""
    wait_until(lambda: job.state in states, timeout_s=timeout_s, what=f"{job!r} to be {' or '.join(states)}")
