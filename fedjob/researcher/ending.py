"""How a job gets from where it stands to its end, by legal steps."""

from __future__ import annotations

from collections.abc import Mapping

from fedjob.common.lifecycle import HISTORY, State

SETUP_REASONS = frozenset({"plan", "missing_packages", "launcher", "no_dataset", "resources"})
"""Why a node could not begin at all: words before the colon of why it is left out."""


def failed_to_start(left_out: Mapping[str, str], *, first: bool) -> bool:
    """Tell whether a job failed because it could not be set up, rather than in its work.

    Args:
        left_out: node -> reason, of the ask that failed.
        first: no round was committed before.
    """
    words = {reason.partition(":")[0] for reason in left_out.values()}
    return first and bool(words & SETUP_REASONS)


_BEGUN = (State.STARTING, State.RUNNING, State.STOPPING)


def route(state: State | str, outcome: str) -> list[State]:
    """Return the states that a job walks through to end, the last one terminal.

    What never ran was not killed but cancelled, and did not fail but could not be
    scheduled; what is ended while it runs is stopping first. A job that has ended
    stays as it is.

    Args:
        outcome: `completed`, `failed`, `killed`, `rejected` or `lost`, as the end came about.
    """
    here = State(state)
    if here in HISTORY:
        return [here]
    if here in _BEGUN:
        return _end_of_begun(here, outcome)
    if outcome == "killed":
        return [State.CANCELLED]
    if outcome == "rejected":
        return [State.REJECTED]
    return [State.UNSCHEDULABLE] if here == State.QUEUED else [State.QUEUED, State.UNSCHEDULABLE]


def _end_of_begun(here: State, outcome: str) -> list[State]:
    if outcome == "lost":
        return [State.LOST]
    if outcome == "killed" or here == State.STOPPING:
        return [State.KILLED] if here == State.STOPPING else [State.STOPPING, State.KILLED]
    if outcome == "completed":
        return [State.COMPLETED] if here == State.RUNNING else [State.RUNNING, State.COMPLETED]
    return [State.FAILED]
