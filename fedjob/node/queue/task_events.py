"""The events that the task machine takes, and the commands that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedjob.node.queue.book import JobRow, TaskRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArrived:
    """A task message that was not seen before; `granted` is true where no decision of the owner is awaited."""

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
    granted: bool = True
    resources: dict[str, Any] = field(default_factory=dict)
    project: str = ""
    job_name: str = ""
    parent: str = ""
    child: str = ""
    researcher_key: str = ""


@dataclass(frozen=True, slots=True)
class KeySucceeded:
    """The key that asked for a task signed its successor, which counts from now on."""

    key: str
    researcher_key: str


@dataclass(frozen=True, slots=True)
class Granted:
    """The owner allowed a waiting task."""

    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The owner, or a limit, forbids a task that has not started; see `Cancel` for one that may run."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Began:
    """A worker process took the task up."""

    key: str
    worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A running task wants a child.

    Args:
        key: of the child; the same whenever the same parent launches it again.
        parent: key of who launched it.
        place: among the parent's children, `0` or `0/2`.
        inputs: keys of siblings whose values it takes.
    """

    key: str
    parent: str
    place: str
    step: str
    order: bytes
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """A running task waits for a child of its own."""

    key: str
    child: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker is through and its output durable (and uploaded); not `ok`: the plan failed."""

    key: str
    ok: bool
    result: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended without an answer.

    Args:
        reason, detail: what is answered if no other worker is to try.
    """

    key: str
    detail: str = ""
    reason: str = "worker_died"


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left of the worker that a `Kill` was for."""

    key: str


@dataclass(frozen=True, slots=True)
class ReplyReceipted:
    """The researcher has this reply, durably."""

    reply: str


@dataclass(frozen=True, slots=True)
class ReplyGivenUp:
    """This reply expired undelivered; the result stays for who asks again."""

    reply: str


@dataclass(frozen=True, slots=True)
class EndArrived:
    """The researcher says that the job is over; `outcome` is its final state."""

    job: str
    researcher: str
    epoch: int
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class OrphanTimeout:
    """The session that asked for this job's work is gone: unfinished work is given up; the job may come back."""

    job: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """This job was silent for so long that all its tasks here are removed; it may come back."""

    job: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The owner ends this task, which is reported to the researcher. It is killed if it had begun, else cancelled."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Overdue:
    """The work took longer than its limit: it failed."""

    key: str
    detail: str = ""
    reason: str = "timeout"


@dataclass(frozen=True, slots=True)
class Reserve:
    """A job wants to hold resources until a moment, unless a task takes them before."""

    job: str
    researcher: str
    resources: dict[str, Any]
    until: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """It is now; leases may have ended, slots may have been added, the hours may have come."""

    now: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeStops:
    """The daemon stops: running tasks are stopped, and computed again after the next start."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon starts: no worker is left of what was running."""


Event = (
    TaskArrived
    | KeySucceeded
    | Granted
    | Refused
    | Began
    | Launched
    | Waits
    | Finished
    | Died
    | Gone
    | ReplyReceipted
    | ReplyGivenUp
    | EndArrived
    | OrphanTimeout
    | Forgotten
    | Cancel
    | Overdue
    | Reserve
    | TimePassed
    | NodeStops
    | Restarted
)


@dataclass(frozen=True, slots=True)
class PutTask:
    """Persist this row."""

    row: TaskRow


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Move this row, in its final state, to the history."""

    row: TaskRow

    @property
    def key(self) -> str:
        """The row's key."""
        return self.row.key


@dataclass(frozen=True, slots=True)
class PutJob:
    """Persist this row."""

    row: JobRow


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Remove this row."""

    job: str


@dataclass(frozen=True, slots=True)
class ReportState:
    """Report to the researcher, once, that the task is in the row's state."""

    row: TaskRow


@dataclass(frozen=True, slots=True)
class SendReply:
    """Send the row's result (or failure) to `row.reply_to` as message `row.reply`, about `row.message`."""

    row: TaskRow

    @property
    def reply(self) -> str:
        """The id to send it under."""
        return self.row.reply


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a task that was not accepted, with a failed result; no row stands for it."""

    task: TaskArrived
    reason: str
    detail: str
    reply: str


@dataclass(frozen=True, slots=True)
class Unreply:
    """Stop sending this reply."""

    reply: str


@dataclass(frozen=True, slots=True)
class Start:
    """Run this task in a worker."""

    key: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the worker that runs this task, with all that it started; `Gone` follows when nothing is left."""

    key: str


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """Send a waiting task's worker the outcome of its child: the task has a slot again."""

    key: str
    child: str


@dataclass(frozen=True, slots=True)
class ReleaseSpool:
    """Remove this task's spool."""

    key: str


@dataclass(frozen=True, slots=True)
class EndJob:
    """Retire the job's idle workers and scratch space."""

    job: str


Command = (
    PutTask
    | DeleteTask
    | PutJob
    | DeleteJob
    | ReportState
    | SendReply
    | Refuse
    | Unreply
    | Start
    | Kill
    | SendOutcome
    | ReleaseSpool
    | EndJob
)
