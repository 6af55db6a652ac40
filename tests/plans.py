"""Small training plans that tests share, as a user would write them in a file."""

from __future__ import annotations

import torch

from fedjob import TorchPlan


class Tiny(TorchPlan):
    """A network with everything that makes resuming hard: momentum, dropout, batch norm."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        width = model_args.get("width", 8)
        return torch.nn.Sequential(
            torch.nn.Linear(4, width),
            torch.nn.BatchNorm1d(width),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.25),
            torch.nn.Linear(width, 2),
        )

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


class Linear(TorchPlan):
    """Least squares by plain gradient descent, so that theory says what comes out."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Linear(4, 1)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs)[:, 0], targets)


class Grouped(Tiny):
    """A network that can be trained with differential privacy, with dropout and momentum."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.GroupNorm(2, 8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(8, 2),
        )


class Raises(Tiny):
    """Fails in the middle of training, with a value of the data in its message."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"secret value {batch[0][0, 0].item()}")
