"""Plans, data and draws for tests of private training, in one process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.context import Context
from fedjob.training_plans.private.training import PrivateTraining


def same_bytes(seed: str = "") -> Callable[[int], bytes]:
    """Return a source of randomness that gives the same bytes, in the same order, each time it is made."""
    number = 0

    def source(count: int) -> bytes:
        nonlocal number
        number += 1
        return hashlib.shake_128(f"{seed} {number}".encode()).digest(count)

    return source


@dataclass
class Rows:
    """A dataset of arrays in memory."""

    inputs: Any
    targets: Any

    @property
    def num_rows(self) -> int:
        return len(self.inputs)

    def take(self, places: Sequence[int]) -> Rows:
        return Rows(self.inputs[list(places)], self.targets[list(places)])

    def arrays(self) -> tuple[Any, Any]:
        return self.inputs, self.targets


def terms(**changes: Any) -> TrainingTerms:
    return TrainingTerms(
        **{
            "epsilon": 4.0,
            "delta": 1e-4,
            "noise": 1.3,
            "rate": 0.25,
            "steps": 3,
            "rounds": 1,
            "max_grad_norm": 0.7,
            "num_rows": 80,
            **changes,
        }
    )


def points(number: int = 80, width: int = 3, classes: int = 0) -> Rows:
    """Return rows of normal numbers, with targets along a line, or with labels where there are classes."""
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(number, width)).astype(np.float32)
    line = inputs @ np.linspace(1.0, -2.0, width, dtype=np.float32)
    if not classes:
        return Rows(inputs, line[:, None].astype(np.float32))
    return Rows(inputs, (np.argsort(np.argsort(line)) * classes // number).astype(np.int64))


def built(
    plan: TrainingPlan,
    data: Any,
    *,
    args: dict[str, Any] | None = None,
    model_args: dict[str, Any] | None = None,
    seed: str | None = "a",
    load: bool = True,
    batched: bool = True,
    **changes: Any,
) -> Any:
    """Return a plan that is ready to train privately.

    Args:
        seed: of draws that repeat; None for the operating system's.
        batched: False for an estimator that is fitted at once.
        changes: of the terms.
    """
    draws = SecureDraws() if seed is None else SecureDraws(same_bytes(seed))
    plan.ctx = Context(private=PrivateTraining(terms=terms(**changes), draws=draws))
    plan.build(model_args or {}, {"lr": 0.1, "batch_size": 20, **(args or {})} if batched else {})
    if load:
        plan.load_data(data)
    return plan
