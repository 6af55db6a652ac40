"""Models so small that two nodes and two steps can be computed by hand.

Every example of a node pulls the parameter towards the node's own number: the loss is
`(w - c)^2 / 2`, its gradient `w - c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedjob import TorchPlan
from fedjob.testing.sites import Sites

PULLS = {"a": (4.0, 1), "b": (-2.0, 3)}
"""Node -> where it pulls, and how many examples it has: their mean is -0.5."""


class Pull(TorchPlan):
    """One parameter `w`, at first 0."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Module()
        model.w = torch.nn.Parameter(torch.zeros(1))
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        momentum = training_args.get("momentum", 0.0)
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=momentum)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs), torch.as_tensor(targets)

    def testing_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return self.training_data(dataset, training_args)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return ((model.w - batch[1]) ** 2).mean() / 2


class PullTwo(Pull):
    """Two parameters whose sum is pulled: `base`, and `head`."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Module()
        model.base = torch.nn.Parameter(torch.zeros(1))
        model.head = torch.nn.Parameter(torch.zeros(1))
        return model

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return ((model.base + model.head - batch[1]) ** 2).mean() / 2


def pulling(folder: Path, plan: Any = Pull, each: Mapping[str, Any] | None = None, **args: Any) -> Sites:
    """Return two nodes that pull; one step at a learning rate of 0.5 unless told otherwise.

    Args:
        args: training arguments.
    """
    data = {}
    for node, (target, num_rows) in PULLS.items():
        data[node] = folder / f"{node}.npz"
        np.savez(
            data[node], x=np.zeros((num_rows, 1), np.float32), y=np.full((num_rows, 1), target, np.float32)
        )
    settings = {"lr": 0.5, "num_updates": 1, "batch_size": 8, **args}
    return Sites(plan=plan, data=data, folder=folder, training_args=settings, each=each or {})
