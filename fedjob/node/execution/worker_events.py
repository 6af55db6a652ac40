"""The events that workers' processes make, as the daemon's loop takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedjob.execution.orders import WorkResult
from fedjob.node.storage.spool import SmallOutput
from fedjob.training_plans.child_tasks import ChildOrder


@dataclass(frozen=True, slots=True)
class WorkerBegan:
    """A worker process is up and has the task; from here on its time counts."""

    key: str
    run: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class WorkerEmitted:
    """The plan, or the protocol, emitted an event."""

    key: str
    run: int
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerReturned:
    """The worker is through, and what it gave was taken into the folder of the attempt.

    Args:
        small: all of it, where that is small.
    """

    key: str
    run: int
    result: WorkResult
    small: SmallOutput | None = None


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended without a result; `detail` says how."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class WorkerUnclosed:
    """The worker's sandbox could not be closed, so it ran nothing; `detail` says what failed."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class WorkerOverran:
    """The worker and what it started hold more memory than one worker may; `detail` says how much."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """Nothing is left of the worker that worked on this task when it was killed."""

    key: str
    run: int


@dataclass(frozen=True, slots=True)
class ChildRequested:
    """The plan launches a child."""

    key: str
    run: int
    order: ChildOrder


@dataclass(frozen=True, slots=True)
class ChildAwaited:
    """The plan waits for the child of that number."""

    key: str
    run: int
    number: int


WorkerEvent = (
    WorkerBegan
    | WorkerEmitted
    | WorkerReturned
    | WorkerDied
    | WorkerUnclosed
    | WorkerOverran
    | WorkerGone
    | ChildRequested
    | ChildAwaited
)
