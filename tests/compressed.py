"""A network with batch normalisation on scikit-learn's digits, for jobs whose parameters travel compressed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy
import torch

from fedjob import TorchPlan

ARGS = {"lr": 0.1, "epochs": 1, "batch_size": 32}


class Digits(TorchPlan):
    """Two layers with batch normalisation and momentum; also tells how often it is right."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Linear(64, 80), torch.nn.BatchNorm1d(80), torch.nn.ReLU(), torch.nn.Linear(80, 10)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.5)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


@cache
def digits() -> tuple[Any, Any]:
    """Return 64 inputs from 0 to 1 and the digit, of 1,797 images."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = numpy.random.default_rng(0).permutation(len(found.target))
    return (found.data[order] / 16).astype(numpy.float32), found.target[order].astype(numpy.int64)


def network() -> torch.nn.Module:
    """Return the network of the plan."""
    return Digits().init_model({})


def accuracy(params: Any, inputs: Any, targets: Any) -> float:
    """Return how often a network of these parameters is right."""
    model = network()
    model.load_state_dict(dict(params))
    model.eval()
    with torch.no_grad():
        return float((model(torch.tensor(inputs)).argmax(1) == torch.tensor(targets)).float().mean())


def every_other(round_, nodes):  # type: ignore[no-untyped-def]
    """Choose all nodes in the first and every third round, and one of them in turn in the others."""
    return nodes if round_ % 3 == 1 else [nodes[round_ % len(nodes)]]
