"""The event that ends a task: its answer is here, and this is what was measured."""

from __future__ import annotations

from typing import Any

from fedjob.common.errors import FedjobError
from fedjob.common.lifecycle import State
from fedjob.common.messages import Result
from fedjob.metrics.states import value

_ODD = (FedjobError, ArithmeticError, LookupError, TypeError, ValueError)


def completion(result: Result, worker: int = 0) -> dict[str, Any]:
    """Return the body of a `state` event; values stay out of it, because watchers hear of events too.

    Args:
        worker: number of the process that computed it; 0 where the node told none.
    """
    measured = _measured(result.metrics)
    told = {
        "state": str(State.COMPLETED),
        "worker": worker,
        "reason": "",
        "num_examples": result.num_examples,
    }
    return {**told, "metrics": measured} if measured else told


def _measured(phases: Any) -> dict[str, dict[str, float]]:
    """Return phase -> name -> number; what a node made up is left out."""
    found: dict[str, dict[str, float]] = {}
    for phase, states in phases.items() if isinstance(phases, dict) else ():
        for name, state in states.items() if isinstance(states, dict) else ():
            try:
                found.setdefault(str(phase), {})[str(name)] = value(state)
            except _ODD:
                continue
    return found
