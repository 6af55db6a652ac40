"""What the paper compares: each method's settings and its published accuracies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedjob import Cyclic, FedAdagrad, FedAdam, FedAvg, FedOpt, FedProx, FedYogi, Scaffold

SEEDS = (42, 43, 44, 45, 46)
ROUNDS = 15
NUM_UPDATES = 100
BATCH_SIZE = 4
POOLED_EPOCHS = 50


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        protocol: None for training on the pooled rows.
        lr: of the local optimizer.
        published: accuracy of hospitals 0 to 3, and of the pooled test.
        published_std: of the pooled test, over the five seeds, about; None where it is not known.
        nodes: hospitals that take part; None for all.
        takes_all: every round needs all four hospitals.
    """

    name: str
    protocol: Any
    lr: float
    published: tuple[float, ...]
    published_std: float | None = None
    optimizer: str = "sgd"
    nodes: tuple[str, ...] | None = None
    rounds: int = ROUNDS
    takes_all: bool = True


SLOW = (0.731, 0.719, 0.650, 0.640, 0.748)
CYCLIC = (0.758, 0.762, 0.713, 0.640, 0.785)
ADAPTIVE: Any = {"tau": 1e-8, "betas": (0.9, 0.999), "first_v": 0.0}

METHODS = (
    Method("FedAvg", FedAvg(), 0.001, SLOW, 0.024),
    Method("FedProx", FedProx(mu=0.01), 0.001, SLOW, 0.024),
    Method("SCAFFOLD", Scaffold(server_lr=1.0), 0.001, (0.727, *SLOW[1:]), 0.024),
    Method("FedAdam", FedOpt(FedAdam(lr=0.01, **ADAPTIVE)), 0.01, (0.752, 0.746, 0.738, 0.667, 0.779), 0.014),
    Method(
        "FedYogi", FedOpt(FedYogi(lr=0.01, **ADAPTIVE)), 0.003162, (0.760, 0.753, 0.738, 0.676, 0.779), 0.014
    ),
    Method(
        "FedAdagrad",
        FedOpt(FedAdagrad(lr=0.316228, **ADAPTIVE)),
        0.003162,
        (0.760, 0.753, 0.738, 0.676, 0.779),
        0.014,
    ),
    Method("Cyclic, visits", Cyclic(order="random", round="visit"), 0.01, CYCLIC, takes_all=False),
    Method("Cyclic, cycles", Cyclic(order="random"), 0.01, CYCLIC, takes_all=False),
    Method("Cyclic, own copies", FedAvg(), 0.01, CYCLIC, nodes=("hospital-0",), rounds=4, takes_all=False),
    Method(
        "pooled rows",
        None,
        0.001,
        (0.783, 0.764, 0.750, 0.644, 0.795),
        optimizer="adam",
        rounds=POOLED_EPOCHS,
    ),
)
