"""Every training protocol of the registry, ready to run: a new one is tested by being in it."""

from __future__ import annotations

from pathlib import Path

from fedjob import FedPer, FineTuned
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.testing.sites import Sites
from tests.data import make_points
from tests.plans import Tiny

WITH_SETTINGS: dict[str, FederatedProtocol] = {
    "fedper": FedPer(["4.*"]),
    "finetuned": FineTuned(num_updates=2),
}
"""Protocols that can't be made without settings."""

TRAINING_PROTOCOLS = [
    name for name in PROTOCOLS.names() if issubclass(PROTOCOLS.find(name), TrainingProtocol)
]


class Demanding(Tiny):
    """Momentum, dropout and batch normalisation; every auxiliary module suits it."""

    aux_modules = ("scaffold",)


def ready(name: str) -> FederatedProtocol:
    """Return a protocol by its name, as a user may make it."""
    return WITH_SETTINGS.get(name) or PROTOCOLS.build(name, {})


def unequal_sites(folder: Path) -> Sites:
    """Return two nodes that have unequal data and train for unequal times."""
    data = {
        node: make_points(folder / f"{node}.npz", rows, rows) for node, rows in {"a": 40, "b": 64}.items()
    }
    args = {"lr": 0.05, "num_updates": 3, "batch_size": 8, "test_ratio": 0.25, "test_on_local_updates": True}
    return Sites(plan=Demanding, data=data, folder=folder, training_args=args, each={"b": {"num_updates": 2}})
