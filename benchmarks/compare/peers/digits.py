"""The CNN that is trained over slow lines, and its digits: the same for every framework, and nothing of fedjob.

It runs in the environments of the peers, which have numpy and torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

BATCH_SIZE = 8
LEARNING_RATE = 0.1


class DigitsNet(torch.nn.Sequential):
    """A CNN of two convolutions for images of 8 x 8, begun at the same numbers everywhere.

    It has 1,012,498 parameters in float32, 4.05 MB, and no batch normalisation: NVFlare's quantiser refuses its counter.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
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


class Digits:
    """Images of digits in one fixed order: the first third is held out, the others go round the nodes."""

    def __init__(self, folder: str | Path) -> None:
        self.inputs = np.load(Path(folder) / "digits-inputs.npy")
        self.labels = np.load(Path(folder) / "digits-targets.npy")
        self._held_out = len(self.labels) // 3

    def of_node(self, number: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a node's images, float32 in 0 to 1, and their labels."""
        rows = slice(self._held_out + number, None, nodes)
        return self.inputs[rows], self.labels[rows]

    def accuracy(self, model: torch.nn.Module) -> float:
        """Return how often a model is right on what no node has."""
        inputs, labels = (
            torch.from_numpy(part[: self._held_out].copy()) for part in (self.inputs, self.labels)
        )
        model.eval()
        with torch.no_grad():
            return float((model(inputs).argmax(1) == labels).float().mean())
