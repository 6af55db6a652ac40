"""The membership audit of a training: canaries by fair coins, guesses from the trained model, a lower bound on epsilon.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", https://arxiv.org/abs/2305.08846:
algorithm 1, and the bound of its corollary 5.4 and appendix D. `benchmarks/membership_audit.py` draws the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import binom
from sklearn.datasets import load_digits

from fedjob import FedAvg, Job, Protect, TorchPlan

WIDTH, PICTURE = 28, 8
"""Pixels of a side, and of the digit in the middle: no digit has anything in the frame around it."""

NUM_CLASSES = 10
BRIGHTNESS = 4.0
"""Of a canary's one pixel, so that its gradient is longer than any bound on it, and counts fully."""

ROUNDS, STEPS = 4, 4
_NUMBERS = (0.1, 0.25, 0.5, 0.8)
"""Shares of the canaries that are guessed at, chosen before any run: each gets its share of the error."""

Array = np.ndarray[Any, Any]


class Pictures(TorchPlan):
    """A linear model of pictures, trained by plain gradient descent."""

    def init_model(self, model_args):
        model = torch.nn.Linear(model_args["pixels"], 10)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """Records that look like no other, with labels that are wrong, and the coins that decided which are trained on.

    Args:
        inputs: (number, pixels), one bright pixel of the frame each, no two the same.
        labels: (number,).
        included: (number,) of bool.
    """

    inputs: Array
    labels: Array
    included: Array


@dataclass(frozen=True, slots=True)
class Found:
    """What an audit found.

    Args:
        guesses, right: of the number of guesses that gave the bound.
        bound: the training is not (epsilon, delta) differentially private for any smaller epsilon.
    """

    guesses: int
    right: int
    bound: float


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of so many right guesses under (epsilon, delta) differential privacy.

    Args:
        canaries: each was included with probability 1/2, independently.
        guesses: of these; the others were abstained from.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"expected right <= guesses <= canaries, found {right}, {guesses} and {canaries}")
    chance = 1 / (1 + math.exp(-epsilon))  # of randomised response to answer with the truth
    tail = float(binom.sf(right - 1, guesses, chance))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    worst = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(tail + 2 * canaries * delta * worst, 1.0)


@lru_cache(maxsize=4096)
def epsilon_bound(canaries: int, guesses: int, right: int, *, delta: float, error: float) -> float:
    """Return the largest epsilon that so many right guesses refute, 0 for none.

    Args:
        error: probability that a training with this delta and a smaller epsilon is refuted, such as 0.05.
    """
    low, high = 0.0, 1.0
    while p_value(canaries, guesses, right, high, delta) < error:
        low, high = high, high + 1
    for _ in range(30):
        middle = (low + high) / 2
        refuted = p_value(canaries, guesses, right, middle, delta) < error
        low, high = (middle, high) if refuted else (low, middle)
    return low


def audited(scores: Array, included: Array, *, delta: float, error: float) -> Found:
    """Return the best bound over a few numbers of guesses; all of them together are wrong with probability `error`.

    Args:
        scores: the higher, the likelier is a canary to have been trained on.
    """
    ranked = np.argsort(scores, kind="stable")
    total = len(scores)
    best = Found(0, 0, 0.0)
    for share in _NUMBERS:
        half = max(1, round(share * total / 2))
        right = int(included[ranked[-half:]].sum() + (~included[ranked[:half]]).sum())
        bound = epsilon_bound(total, 2 * half, right, delta=delta, error=error / len(_NUMBERS))
        if bound >= best.bound:
            best = Found(2 * half, right, bound)
    return best


def digits(rows: slice | Sequence[int] = slice(None)) -> tuple[Array, Array]:
    """Return pictures (number, 784) of digits in an empty frame, from 0 to 1, and their labels."""
    found = load_digits()
    pictures = np.zeros((len(found.target), WIDTH, WIDTH), np.float32)
    start = (WIDTH - PICTURE) // 2
    pictures[:, start : start + PICTURE, start : start + PICTURE] = found.images / 16
    return pictures.reshape(len(pictures), -1)[rows], found.target.astype(np.int64)[rows]


def canaries(number: int, rng: np.random.Generator) -> Canaries:
    """Return so many canaries, and a coin for each."""
    frame = np.flatnonzero(digits()[0].sum(0) == 0)
    inputs = np.zeros((number, WIDTH * WIDTH), np.float32)
    inputs[np.arange(number), rng.choice(frame, number, replace=False)] = BRIGHTNESS
    return Canaries(
        inputs=inputs, labels=rng.integers(NUM_CLASSES, size=number), included=rng.random(number) < 0.5
    )


def scores_of(params: dict[str, torch.Tensor], found: Canaries) -> Array:
    """Return for each canary what its pixel adds to the log odds of its label, which grows where it was trained on."""
    weight, bias = params["weight"].numpy(), params["bias"].numpy()
    with_pixel, without = (
        found.inputs @ weight.T + bias,
        np.broadcast_to(bias, (len(found.labels), NUM_CLASSES)),
    )
    return _log_odds(with_pixel, found.labels) - _log_odds(without, found.labels)


def _log_odds(logits: Array, labels: Array) -> Array:
    own = logits[np.arange(len(logits)), labels]
    others = np.where(np.eye(NUM_CLASSES, dtype=bool)[labels], -np.inf, logits)
    return own - logsumexp(others, axis=1)


def trained(
    found: Canaries, *, protect: Protect | None, num_nodes: int, num_digits: int, home: Path
) -> dict[str, torch.Tensor]:
    """Train with fedjob on digits, and at the first node on the included canaries too; return the parameters.

    Args:
        num_digits: at each node.
    """
    home.mkdir(parents=True)
    files = {}
    for node in range(num_nodes):
        inputs, labels = digits(range(node * num_digits, (node + 1) * num_digits))
        if not node:
            inputs = np.concatenate([inputs, found.inputs[found.included]])
            labels = np.concatenate([labels, found.labels[found.included]])
        files[f"node{node}"] = home / f"node{node}.npz"
        np.savez(files[f"node{node}"], x=inputs, y=labels)
    job = Job(
        FedAvg(),
        training_plan=Pictures,
        data={node: str(path) for node, path in files.items()},
        nodes="local",
        model_args={"pixels": WIDTH * WIDTH},
        training_args={"lr": 1.0, "batch_size": num_digits // 2, "num_updates": STEPS},
        rounds=ROUNDS,
        home=home / "researcher",
        seed=1,
        protect=protect,
    )
    return {name: torch.as_tensor(value) for name, value in job.run(progress=False).params.items()}


def audit(
    protect: Protect | None,
    *,
    number: int,
    home: Path,
    rng: np.random.Generator,
    num_nodes: int = 1,
    num_digits: int = 200,
    delta: float = 1e-5,
    error: float = 0.05,
) -> Found:
    """Train once with canaries and return what their guesses tell about epsilon.

    Args:
        number: of canaries.
        num_digits: of other records at each node.
    """
    found = canaries(number, rng)
    params = trained(found, protect=protect, num_nodes=num_nodes, num_digits=num_digits, home=home)
    return audited(scores_of(params, found), found.included, delta=delta, error=error)


def ceiling(number: int, *, delta: float = 1e-5, error: float = 0.05) -> float:
    """Return the bound that an audit of so many canaries finds where every guess is right."""
    return max(_ceilings(number, delta, error))


def _ceilings(number: int, delta: float, error: float) -> Iterable[float]:
    for share in _NUMBERS:
        guesses = 2 * max(1, round(share * number / 2))
        yield epsilon_bound(number, guesses, guesses, delta=delta, error=error / len(_NUMBERS))
