"""The models of the simulations, and the rows of a node: the same for every framework, and nothing of fedjob.

It runs in the environments of the peers, which have numpy and torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

IMAGES_PER_NODE = 50
BATCH_SIZE = 10
LEARNING_RATE = 0.1


def cnn() -> torch.nn.Sequential:
    """Return a CNN of two convolutions for images of 32 x 32 x 3, begun at the same numbers everywhere."""
    torch.manual_seed(0)
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


def linear() -> torch.nn.Sequential:
    """Return a linear model of 1 MB for the same images, begun at the same numbers everywhere."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 85))


def model_of(name: str) -> torch.nn.Sequential:
    """Return the model of a name, `cnn` or `linear`."""
    return {"cnn": cnn, "linear": linear}[name]()


class Images:
    """The images of all nodes, mapped into memory: `IMAGES_PER_NODE` rows each, in their order."""

    def __init__(self, folder: str | Path) -> None:
        self._inputs = np.load(Path(folder) / "inputs.npy", mmap_mode="r")
        self._labels = np.load(Path(folder) / "targets.npy", mmap_mode="r")

    def of_node(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a node's images, float32 in 0 to 1, and their labels."""
        rows = slice(number * IMAGES_PER_NODE, (number + 1) * IMAGES_PER_NODE)
        inputs = torch.from_numpy(self._inputs[rows].astype(np.float32)).div_(255)
        return inputs, torch.from_numpy(np.array(self._labels[rows]))


def loss_of(model: torch.nn.Module, images: Images, nodes: int) -> float:
    """Return the mean cross-entropy over the images of the first 20 nodes, or of all: it shows that a peer did train."""
    model.eval()
    with torch.no_grad():
        parts = [images.of_node(number) for number in range(min(20, nodes))]
        losses = [torch.nn.functional.cross_entropy(model(inputs), labels) for inputs, labels in parts]
    return float(sum(losses) / len(losses))
