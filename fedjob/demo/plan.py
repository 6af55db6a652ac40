"""The demo's training plan: a small network that reads handwritten digits.

Change it and run the demo again.
"""

from __future__ import annotations

from typing import Any

import torch

from fedjob import TorchPlan


class Digits(TorchPlan):
    """Nodes receive this class as text, and build it from nothing else."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        """Return 64 pixels -> hidden units -> 10 digits."""
        return torch.nn.Sequential(
            torch.nn.Linear(64, model_args["hidden"]),
            torch.nn.ReLU(),
            torch.nn.Linear(model_args["hidden"], 10),
        )

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        """Return plain gradient descent with momentum."""
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        """Return what this node holds; `test_ratio` keeps a part of it for validation."""
        pixels, digits = dataset.arrays()
        return torch.as_tensor(pixels), torch.as_tensor(digits)

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of a batch."""
        pixels, digits = batch
        return torch.nn.functional.cross_entropy(model(pixels), digits)

    def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return two measures of a batch; fedjob combines them over batches and nodes."""
        pixels, digits = batch
        scores = model(pixels)
        hits = (scores.argmax(1) == digits).float().mean()
        return {"loss": torch.nn.functional.cross_entropy(scores, digits).item(), "accuracy": hits.item()}
