"""How a job gets from where it stands to its end, by legal steps."""

from __future__ import annotations

from fedjob.common.lifecycle import HISTORY, State

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
