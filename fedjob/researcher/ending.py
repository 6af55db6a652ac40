"""How a job gets from where it stands to its end, by legal steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedjob.common.lifecycle import HISTORY, State
from fedjob.common.protocols.steps import SETUP

_TOO_LATE = frozenset({"late", "quorum_lost", "silent"})
"""Why a node is left out that had not answered when its time was over."""

SETUP_REASONS = frozenset({"plan", "missing_packages", "launcher", "no_dataset", "resources"})
"""Why a node could not begin at all: words before the colon of why it is left out."""

SHARED_REASONS = frozenset(
    {"batch_failures", "limits_exceeded", "no_data", "no_new_data", "no_test_data", "out_of_memory"}
)
"""What a job failed for where all of its nodes failed for it: it says more than that too few are left."""


def reason_of_quorum(
    left_out: Mapping[str, str], *, first: bool, step: str, required: Collection[str] = ()
) -> str:
    """Return why a job ends whose quorum can't be met.

    Args:
        left_out: node -> reason, of the ask that failed.
        first: no round was committed before.
        step: of that ask.
        required: nodes that the quorum can't do without: where code raised at one, that says it.
    """
    words = {reason.partition(":")[0] for reason in left_out.values()}
    if step == SETUP and words <= _TOO_LATE:
        return "start_timeout"
    if len(words) == 1 and words <= SHARED_REASONS:
        return words.pop()
    if any(left_out.get(node, "").partition(":")[0] == "exception" for node in required):
        return "exception"
    return "start" if first and words & SETUP_REASONS else "quorum_lost"


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
