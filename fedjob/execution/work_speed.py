"""The amount of a round's training, and the speed of one core of this machine, by which the time of a job is foretold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

_TRIES, _LOOPS = 5, 20_000


def examples_in(training_args: Mapping[str, Any], rows: int) -> float:
    """Return the examples that a round trains on, each as often as it comes up; 0 where that is not known.

    Args:
        rows: that are trained on; those held out are not among them.
    """
    updates, epochs, batch = (training_args.get(name) for name in ("num_updates", "epochs", "batch_size"))
    if not all(one is None or isinstance(one, int) for one in (updates, epochs, batch)):
        return 0.0  # a schedule: another number in each round
    size = min(32 if batch is None else batch, max(rows, 1))
    if updates is not None:
        return float(updates * size)
    most = training_args.get("batch_maxnum")
    return float((epochs or 1) * (min(rows, most * size) if isinstance(most, int) else rows))


def rows_trained_on(training_args: Mapping[str, Any], rows: int) -> int:
    """Return the rows of a dataset that are not held out for validation."""
    held_out = training_args.get("test_ratio", 0.0)
    return round(rows * (1.0 - held_out)) if isinstance(held_out, float | int) else rows


@cache
def core_speed() -> float:
    """Return millions of loops a second that one core of this machine makes, the best of a few tries of a millisecond.

    Python's own loop is measured, in processor time: it is there at every node, and says within a factor of two how two machines
    differ, where neither has a GPU.
    """
    best = 0.0
    for _ in range(_TRIES):
        began, total = time.thread_time(), 0.0
        for number in range(_LOOPS):
            total += number * 0.5
        best = max(best, _LOOPS / 1e6 / max(time.thread_time() - began, 1e-6))
    return round(best, 2)
