"""The pictures of a node, taken back from one update of it.

Fowl et al. 2021, "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with Modified Models",
https://arxiv.org/abs/2110.13057: the researcher sends a first layer all of whose rows measure the same, the brightness,
each from a threshold of its own on. Between two thresholds lie few pictures, often one; the difference of the two rows'
gradients is then this picture times a number, which the difference of the biases' gradients tells.
`benchmarks/gradient_inversion.py` draws the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from fedjob import FedAvg, Job, Protect, TorchPlan

PIXELS, BINS = 64, 512
KNOWN, NUM = 900, 64
"""Pictures that the attacker has, and those of a node."""

RATE = 1.0
"""Of learning: with one step the update is the gradient times this."""

RECOGNISED = 0.99
"""Correlation of a picture that was taken back with the true one, from which on it counts as recovered: of 600 digits
none is so much like one of 900 others."""

Array = np.ndarray[Any, Any]


class Trap(TorchPlan):
    """A network of two layers as anybody writes it; the trap is in the first parameters that the researcher sends."""

    def init_model(self, model_args):
        return torch.nn.Sequential(
            torch.nn.Linear(model_args["pixels"], model_args["hidden"]),
            torch.nn.ReLU(),
            torch.nn.Linear(model_args["hidden"], 10),
        )

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)


def pictures() -> tuple[Array, Array]:
    """Return the digits of scikit-learn, (number, 64) from 0 to 1, and their labels, in an order of their own."""
    found = load_digits()
    order = np.random.default_rng(5).permutation(len(found.target))
    return (found.data[order] / 16).astype(np.float32), found.target[order].astype(np.int64)


def trap(known: Array) -> dict[str, torch.Tensor]:
    """Return the parameters that the researcher sends.

    Args:
        known: (number, 64), pictures of the same kind that anybody has: of their brightness the thresholds are made.
    """
    direction = np.ones(PIXELS, np.float32) / PIXELS
    thresholds = np.quantile(known @ direction, (np.arange(BINS) + 0.5) / BINS)
    second = torch.linspace(-1, 1, 10).reshape(-1, 1) / BINS
    return {
        "0.weight": torch.as_tensor(direction).repeat(BINS, 1),
        "0.bias": -torch.as_tensor(thresholds, dtype=torch.float32),
        "2.weight": second.repeat(1, BINS),
        "2.bias": torch.zeros(10),
    }


def taken_back(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> Array:
    """Return the pictures that an update tells of, (bins, 64), one for each two neighbouring thresholds."""
    rows = (before["0.weight"].double() - after["0.weight"].double()).numpy()
    biases = (before["0.bias"].double() - after["0.bias"].double()).numpy()
    between, factor = -np.diff(rows, axis=0), -np.diff(biases)
    between, factor = np.vstack([between, rows[-1:]]), np.append(factor, biases[-1])
    told = np.abs(factor) > 1e-9
    return np.clip(between[told] / factor[told, None], 0, 1)


def closest(found: Array, true: Array) -> tuple[Array, Array]:
    """Return for each true picture the most alike of those that were taken back, and the correlation of the two."""
    if not len(found):
        return np.zeros_like(true), np.zeros(len(true))
    alike = _standard(true) @ _standard(found).T
    best = alike.argmax(1)
    return found[best], alike[np.arange(len(true)), best]


def _standard(pictures: Array) -> Array:
    centred = pictures - pictures.mean(1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def one_round(
    nodes: dict[str, tuple[Array, Array]],
    sent: dict[str, torch.Tensor],
    protect: Protect | None,
    home: Path,
    batch_size: int,
) -> dict[str, torch.Tensor]:
    """Let the nodes take one step from the parameters that were sent, and return what the researcher gets.

    Args:
        nodes: name -> pictures and labels. Of one node it is that node's own update.
    """
    home.mkdir(parents=True)
    for node, (inputs, labels) in nodes.items():
        np.savez(home / f"{node}.npz", x=inputs, y=labels)
    job = Job(
        FedAvg(),
        training_plan=Trap,
        data={node: str(home / f"{node}.npz") for node in nodes},
        nodes="local",
        model_args={"pixels": PIXELS, "hidden": BINS},
        training_args={"lr": RATE, "batch_size": batch_size, "num_updates": 1},
        rounds=1,
        init=sent,
        home=home / "researcher",
        seed=1,
        protect=protect,
    )
    return {name: torch.as_tensor(value) for name, value in job.run(progress=False).params.items()}


def attacked(protect: Protect | None, num_nodes: int, home: Path) -> tuple[Array, Array, Array]:
    """Attack the update of one node, or the sum of several, of 64 pictures each.

    Returns:
        The pictures of the first node, (64, 64); the most alike of those that were taken back; the correlations.
    """
    images, labels = pictures()
    parts = [slice(KNOWN + NUM * k, KNOWN + NUM * (k + 1)) for k in range(num_nodes)]
    nodes = {f"node{k}": (images[part], labels[part]) for k, part in enumerate(parts)}
    sent = trap(images[:KNOWN])
    private = protect is not None and protect.dp is not None
    # private training draws half of the records at most; without it a step is on all of them
    after = one_round(nodes, sent, protect, home, NUM // 2 if private else NUM)
    own = nodes["node0"][0]
    return own, *closest(taken_back(sent, after), own)
