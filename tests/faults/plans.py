"""The training plan of the jobs that go through faults, as a user would write it in a file."""

from __future__ import annotations

import time

import torch

from fedjob import TorchPlan


class Sluggish(TorchPlan):
    """A classifier of points, as wide as is asked for, that pauses at each step and notes each round that it trained."""

    extra_args = ("tally", "pause_s")

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        width = model_args["width"]
        return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        time.sleep(self.training_args["pause_s"])
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    def get_params(self, **how):  # type: ignore[no-untyped-def]
        if self.ctx.round and self.timing.get("train"):
            print("trained", self.training_args["tally"], self.ctx.round, flush=True)
        return super().get_params(**how)
