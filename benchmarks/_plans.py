"""Plans of the round benchmarks: a model of any size whose local work is one addition or one step.

Every node adds a number of its own: equal contributions would be one object at the hub, and the total the same.
"""

from __future__ import annotations

import time

import torch

from fedjob import TorchPlan
from fedjob.training_plans.base import TrainOutcome


class AddOne(TorchPlan):
    """`num_params` float32 parameters in `num_tensors` tensors; training adds the node's number to each."""

    def init_model(self, model_args):
        size = model_args["num_params"] // model_args["num_tensors"]
        names = range(model_args["num_tensors"])
        model = torch.nn.Module()
        model.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(size)) for _ in names])
        return model

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=1.0)

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs), torch.as_tensor(targets)

    def training_step(self, model, batch):
        return sum(weight.sum() for weight in model.weights)

    def train_locally(self, adjust=None):
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(number_of(self.ctx.node))
        return TrainOutcome(num_examples=8, num_updates=1, loss=0.0)


class StepOnce(AddOne):
    """One step of gradient descent along a gradient of minus the node's number, which a protocol may correct."""

    aux_modules = ("scaffold",)

    def train_locally(self, adjust=None):
        for weight in self.model.parameters():
            weight.grad = torch.full_like(weight, -number_of(self.ctx.node))
        if adjust is not None:
            adjust(self.model)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.sub_(weight.grad)
                weight.grad = None
        return TrainOutcome(num_examples=8, num_updates=1, loss=0.0)


class TellTheTime(AddOne):
    """Says when it begins to train."""

    def train_locally(self, adjust=None):
        self.ctx.emit("note", {"training_since": time.time()})
        return super().train_locally(adjust)


class Small(TorchPlan):
    """A small network with what makes equal bytes hard: momentum, dropout, batch normalisation."""

    def init_model(self, model_args):
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.25),
            torch.nn.Linear(8, 2),
        )

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)


class Linear(Small):
    """A linear classifier by plain gradient descent: what SCAFFOLD corrects."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):
        return torch.nn.Linear(4, 2)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])


class Wide(Linear):
    """Three wide layers: the memory is that of the parameters, and hardly any of what is computed between them."""

    def init_model(self, model_args):
        width = model_args["width"]
        return torch.nn.Sequential(
            torch.nn.Linear(64, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, 10),
        )

    def init_optimizer(self, model, training_args):
        settings = {"momentum": training_args.get("momentum", 0.0)} if training_args.get("momentum") else {}
        optimizer = getattr(torch.optim, training_args.get("optimizer", "SGD"))
        return optimizer(model.parameters(), lr=training_args["lr"], **settings)


def number_of(node):
    """Return a node's number: 1 for the first one, a hundredth more for each after it."""
    return 1.0 + 0.01 * int(node.rpartition("-")[2])


class Images(TorchPlan):
    """A CNN of two convolutions, for images of 32 x 32 x 3."""

    def init_model(self, model_args):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 5),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(32, 64, 5),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * 5 * 5, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, labels = dataset.arrays()
        return torch.as_tensor(inputs).float() / 255, torch.as_tensor(labels)

    def training_step(self, model, batch):
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(model(inputs), labels)


class ImagesChannelsLast(Images):
    """The same CNN in the order of numbers that processors compute convolutions and pooling of faster."""

    def init_model(self, model_args):
        return super().init_model(model_args).to(memory_format=torch.channels_last)


class Megabyte(Images):
    """A linear model of 1 MB on the same images."""

    def init_model(self, model_args):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 85))


class Digits(TorchPlan):
    """A CNN of two convolutions and a million parameters, for images of 8 x 8."""

    def init_model(self, model_args):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torch.nn.Sequential(
                torch.nn.Unflatten(1, (1, 8, 8)),
                torch.nn.Conv2d(1, 32, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(32, 64, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
                torch.nn.Flatten(),
                torch.nn.Linear(1024, 960),
                torch.nn.ReLU(),
                torch.nn.Linear(960, 10),
            )

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, labels = dataset.arrays()
        return torch.as_tensor(inputs), torch.as_tensor(labels)

    def training_step(self, model, batch):
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(model(inputs), labels)
