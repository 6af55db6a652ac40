"""The states of a job and of a task, with the table of allowed transitions.

A node's task goes through the same states as a job, without `draft` and
`unschedulable`. A reason, one of `REASONS`, is recorded with a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from fedjob.common.errors import IllegalTransition


class State(StrEnum):
    """The state of a job or a task."""

    DRAFT = "draft"
    WAITING = "waiting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    LOST = "lost"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    UNSCHEDULABLE = "unschedulable"


PENDING = frozenset({State.WAITING, State.QUEUED})
ACTIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
HISTORY = frozenset(
    {
        State.COMPLETED,
        State.FAILED,
        State.KILLED,
        State.LOST,
        State.REJECTED,
        State.CANCELLED,
        State.UNSCHEDULABLE,
    }
)
GROUPS: Mapping[str, frozenset[State]] = {"pending": PENDING, "active": ACTIVE, "history": HISTORY}

TABLE: Mapping[State, frozenset[State]] = {
    State.DRAFT: frozenset({State.WAITING}),
    # a job that waits is lost only where it ran inside a process that is gone
    State.WAITING: frozenset({State.QUEUED, State.REJECTED, State.CANCELLED, State.LOST}),
    State.QUEUED: frozenset(
        {State.STARTING, State.WAITING, State.REJECTED, State.UNSCHEDULABLE, State.CANCELLED, State.LOST}
    ),
    State.STARTING: frozenset({State.RUNNING, State.FAILED, State.STOPPING, State.LOST}),
    State.RUNNING: frozenset({State.COMPLETED, State.FAILED, State.STOPPING, State.LOST}),
    State.STOPPING: frozenset({State.KILLED, State.LOST}),
    **dict.fromkeys(HISTORY, frozenset({State.WAITING})),  # by restart: the same id, the next attempt
}


def advance(state: State | str, to: State | str) -> State:
    """Return the next state.

    Raises:
        IllegalTransition: the table has no such step; the message lists the allowed ones.
    """
    here, there = State(state), State(to)
    if there not in TABLE[here]:
        allowed = ", ".join(sorted(TABLE[here]))
        raise IllegalTransition(f"what is {here} can become {allowed}; it can't become {there}")
    return there


STARTED = "task.started"
FINISHED = "task.finished"
BATCH = "batch.done"
MOMENTS = (STARTED, FINISHED, BATCH)


def moment_of(type_: str, body: Mapping[str, Any]) -> str:
    """Return the moment that an event about a task marks; empty for none.

    Args:
        type_, body: of an event about a task, not about the job as a whole.
    """
    state = body.get("state")
    if type_ == "state" and state == State.RUNNING:
        return STARTED
    if type_ == "state" and isinstance(state, str) and state in HISTORY:
        return FINISHED
    return BATCH if type_ == "result" and "n" in body else ""
