"""Training plans of the end-to-end tests, as a user would write them in a file."""

from __future__ import annotations

import hashlib
import os
import time

import numpy as np
import torch
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from fedjob import SklearnPlan, TorchPlan

SCALES = [80, 1, 4, 200, 400, 1, 2, 200, 1, 4]


def heart_table(dataset):  # type: ignore[no-untyped-def]
    """Return (inputs, targets) of the rows that are complete once three sparse columns are gone."""
    table = dataset.frame().drop(columns=["10", "11", "12"]).dropna()
    inputs = table.drop(columns=["13"]).to_numpy(dtype=np.float32) / np.asarray(SCALES, dtype=np.float32)
    return inputs, (table["13"] > 0).to_numpy().astype(np.float32)


class Named(TorchPlan):
    """A linear classifier with a thousand more parameters, whose names nobody makes smaller."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        names = [hashlib.sha512(str(number).encode()).hexdigest() for number in range(1000)]
        model = torch.nn.Linear(4, 2)
        model.more = torch.nn.ParameterDict({name: torch.zeros(1) for name in names})
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        offset = torch.cat(list(model.more.values())).sum()
        return torch.nn.functional.cross_entropy(model(inputs) + torch.stack([offset, -offset]), targets)


class Heart(TorchPlan):
    """Logistic regression on the ten columns that every hospital fills in."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(model_args["num_features"], 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return heart_table(dataset)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets)

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return (model(inputs)[:, 0] > 0).long(), targets.long()


class Points(TorchPlan):
    """A linear classifier of the points; the plans below change one thing each."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(4, 2)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return model(inputs).argmax(1), targets


class Counting(Points):
    """Notes each time that training is complete, with its round; takes its time, so that it can be interrupted."""

    extra_args = ("tally", "pause_s")

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        time.sleep(self.training_args["pause_s"])
        return super().training_step(model, batch)

    def get_params(self, **how):  # type: ignore[no-untyped-def]
        if self.ctx.round and self.timing.get("train"):
            print("trained", self.training_args["tally"], self.ctx.round, flush=True)
        return super().get_params(**how)


class Numbered(Points):
    """Ends in numbers that follow from the node's name and the model it started from, and add without rounding."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        place = int(self.ctx.node.lstrip("n"))
        with torch.no_grad():
            for tensor in model.parameters():
                steps = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
                started = (tensor.double() * 64).round()  # another start, other numbers
                tensor.copy_(0.5 + ((started * 5 + steps * 7 + place * place) % 33) / 64)
        return model(batch[0]).sum() * 0


class FailsAtOne(Points):
    """Raises at one node, with a value of its data in the message."""

    extra_args = ("fails_at",)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        if self.ctx.node == self.training_args["fails_at"]:
            raise ValueError(f"secret value {batch[0][0, 0].item()}")
        return super().training_step(model, batch)


class Misbehaves(Points):
    """Does one wrong thing at one node."""

    extra_args = ("at", "how")

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        how = self.training_args["how"] if self.ctx.node == self.training_args["at"] else ""
        if how == "nan":
            with torch.no_grad():
                model.weight.fill_(float("nan"))
            return model(batch[0]).sum() * 0
        if how == "shape":
            model.weight.data, model.bias.data = torch.zeros(3, 4), torch.zeros(3)
        if how == "names":
            model.more = torch.nn.Parameter(torch.zeros(3))
        if how == "exit":
            os._exit(3)
        if how == "sysexit":
            raise SystemExit(0)
        while how == "forever":
            time.sleep(0.05)
        return super().training_step(model, batch)


class Chatty(Points):
    """Prints and emits what it is told."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        print("printed by the plan")
        self.ctx.emit("note", {"text": "emitted by the plan"})
        return super().training_step(model, batch)


class NeedsMore(Points):
    """Imports, when it is used, a package that nobody has."""

    requires = ("a_package_that_nobody_has",)


class Large(Points):
    """A model whose parameters would never fit into a message."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(4, 5000), torch.nn.Linear(5000, 2))


class PointsSGD(SklearnPlan):
    """The points by scikit-learn's stochastic gradient descent."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()


class PointsMLP(PointsSGD):
    """The points by scikit-learn's neural network."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        return MLPClassifier((8,), learning_rate_init=0.01)
