"""The book of a node's tasks and jobs: rows as they are persisted, and what may run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.lifecycle import HISTORY, State
from fedjob.node.queue.allocation import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task, as it is persisted.

    Args:
        key: names the work, see `messages.work_key`.
        researcher: the party that asked.
        researcher_key: hex of the public key that it asked with, or of one that this key signed since.
        reply_to: the session that the answer goes to; a newer epoch changes it.
        message: id of the task message that is answered.
        order: what the daemon needs to run it, opaque here.
        seq: order of arrival.
        state: one of `lifecycle.State`.
        worker: process that computes it; 0 before one has begun.
        after: what follows `stopping`: `answer`, `release` or `again`; empty otherwise.
        ends: the state that follows it, where that is not `again`.
        deaths: workers that died over it.
        reason, detail: why it stands where it stands.
        result: what the daemon answers with when completed (or failed in the worker), opaque here.
        reply: id of the reply on its way, or delivered.
        acknowledged: the researcher has that reply.
        resources: that it needs of the node, see `requirements.Need`.
        project, job_name: for people.
        parent, child: key of the task that launched this one, and its place among those.
        inputs: keys of siblings whose values it takes; it starts when they are completed.
        waits: key of the child whose end it waits for; it holds no slot meanwhile.
    """

    key: str
    job: str
    researcher: str
    dataset: str
    round: int
    step: str
    epoch: int
    attempt: int
    reply_to: str
    message: str
    order: bytes
    seq: int
    state: str
    worker: int = 0
    after: str = ""
    ends: str = ""
    deaths: int = 0
    reason: str = ""
    detail: str = ""
    result: bytes = b""
    reply: str = ""
    acknowledged: bool = False
    resources: dict[str, Any] = field(default_factory=dict)
    project: str = ""
    job_name: str = ""
    parent: str = ""
    child: str = ""
    inputs: tuple[str, ...] = ()
    waits: str = ""
    researcher_key: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, a column each."""
        return {**asdict(self), "state": str(self.state), "ends": str(self.ends)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TaskRow:
        """Build it from `to_plain`'s data; raises `MessageError` if it is something else."""
        return from_plain(cls, dict(plain))

    @property
    def finished(self) -> bool:
        """True if nothing more is computed for it."""
        return self.state in HISTORY

    @property
    def computing(self) -> bool:
        """True if a worker has it, or is being prepared for it."""
        return self.state in (State.STARTING, State.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """The facts of a job that outlive its tasks: its researcher, and the fences against outdated messages.

    Args:
        epoch: the newest one seen; older messages are refused.
        round: the newest one asked under that epoch.
        ended: nothing of this epoch is accepted any more.
    """

    job: str
    researcher: str
    epoch: int
    round: int = 0
    ended: bool = False
    seq: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, a column each."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> JobRow:
        """Build it from `to_plain`'s data; raises `MessageError` if it is something else."""
        return from_plain(cls, dict(plain))


@dataclass(frozen=True, slots=True)
class Book:
    """All tasks of a node.

    Args:
        slots: tasks that run at once.
        per_job: of those, of one job; each has a worker process of its own.
        max_deaths: a task over which so many workers died has failed.
        is_open: whether tasks may begin: the owner's working hours.
        ledger: what the node lends out, and who holds it.
        turns: by researcher, the number of the latest start; who was served longest ago comes first.
    """

    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    jobs: Mapping[str, JobRow] = field(default_factory=dict)
    slots: int = 1
    per_job: int = 1
    max_deaths: int = 3
    is_open: bool = True
    ledger: Allocation = field(default_factory=Allocation)
    turns: Mapping[str, int] = field(default_factory=dict)

    def unfinished(self) -> list[TaskRow]:
        """Return the tasks that somebody waits for, whose leases are to be renewed, in order of arrival."""
        rows = [
            row
            for row in self.tasks.values()
            if not row.finished and row.after != "release" and not row.parent
        ]
        return sorted(rows, key=lambda row: row.seq)


Tasks = Mapping[str, TaskRow]


def root_of(tasks: Tasks, row: TaskRow) -> TaskRow:
    """Return the task of the job that a child task belongs to, however deep; itself if it is none."""
    while row.parent in tasks:
        row = tasks[row.parent]
    return row


def children_of(tasks: Tasks, row: TaskRow) -> list[TaskRow]:
    """Return the children of a task, in the order of their launch."""
    found = [child for child in tasks.values() if child.parent == row.key]
    return sorted(found, key=lambda child: child.seq)


def inputs_ready(tasks: Tasks, row: TaskRow) -> bool:
    """Tell whether everything that a task takes from its siblings is there."""
    return all(key in tasks and tasks[key].state == State.COMPLETED for key in row.inputs)


def failed_input(tasks: Tasks, row: TaskRow) -> TaskRow | None:
    """Return a sibling that a task waits for in vain."""
    for key in row.inputs:
        sibling = tasks.get(key)
        if sibling is not None and sibling.finished and sibling.state != State.COMPLETED:
            return sibling
    return None
