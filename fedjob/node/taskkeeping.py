"""A node's tasks: accepted once, computed once, answered as often as asked, released when done with.

A pure core, `book, commands = step(book, event)`: no sockets, files, clocks or
threads. A `Book` is never changed in place, so a daemon whose transaction fails
keeps the old one and has lost nothing.

    (waiting for a grant) -> accepted -> running -> done | failed -> acknowledged -> released

How the daemon maps commands: it feeds every event of one turn to `step`, and then

 1. in ONE transaction: `PutTask`, `DeleteTask`, `PutJob`, `DeleteJob` (rows, the last one of a
    key wins), `Reply` and `Refuse` (`store.add(endpoint.prepare(..., id=command.reply))`),
    `Unreply` (`store.drop`), and `store.mark_seen` for the messages of the turn;
 2. after the commit, in order: `endpoint.post` the replies, `endpoint.withdraw` the unreplied,
    `Kill`, `Start`, `Release`, `EndJob`; then `endpoint.settle(messages)`.

A kill between 1 and 2 is mended at the next start: the outbox is in the store,
`Restarted` starts what was running again, spool folders without a row are swept.
A worker's output is durable before the daemon hears of it; so at start the daemon
says `Finished` for each row whose spool holds a complete output, and only then
`Restarted`: finished work is never computed twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from fedjob.common.codec import from_plain

Status = Literal["waiting", "accepted", "running", "done", "failed"]
UNFINISHED = ("waiting", "accepted", "running")
MAX_JOBS = 1000

# --- state ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task, as it is persisted.

    Args:
        key: names the work, see `messages.work_key`.
        researcher: the party that asked.
        reply_to: the session that the answer goes to; a newer epoch changes it.
        message: id of the task message that is answered.
        order: what the daemon needs to run it, opaque here.
        seq: order of arrival.
        deaths: workers that died over it.
        reason, detail: why it failed.
        result: what the daemon answers with when done (or failed in the worker), opaque here.
        reply: id of the reply on its way, or delivered.
        acknowledged: the researcher has that reply.
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
    status: str
    deaths: int = 0
    reason: str = ""
    detail: str = ""
    result: bytes = b""
    reply: str = ""
    acknowledged: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, a column each."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TaskRow:
        """Build it from `to_plain`'s data; raises `MessageError` if it is something else."""
        return from_plain(cls, dict(plain))

    @property
    def finished(self) -> bool:
        """Whether nothing more is computed for it."""
        return self.status not in UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """What outlives a job's tasks: who began it, and the fences against messages from its past.

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
        per_job: of those, of one job (a job has one worker process).
        max_deaths: a task over which so many workers died has failed.
    """

    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    jobs: Mapping[str, JobRow] = field(default_factory=dict)
    slots: int = 1
    per_job: int = 1
    max_deaths: int = 3

    def unfinished(self) -> list[TaskRow]:
        """Return the tasks whose leases are to be renewed, in order of arrival."""
        return sorted((row for row in self.tasks.values() if not row.finished), key=lambda row: row.seq)


# --- events -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArrived:
    """A task message that was not seen before; `granted` says whether its owner's decision is there."""

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
class Finished:
    """The worker is through and its output durable (and uploaded); not `ok`: the plan failed."""

    key: str
    ok: bool
    result: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended without an answer."""

    key: str
    detail: str = ""


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
    """The researcher says that the job is over."""

    job: str
    researcher: str
    epoch: int


@dataclass(frozen=True, slots=True)
class OrphanTimeout:
    """Nothing was heard of this job for so long that its tasks are given up; it may come back."""

    job: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The owner, or a time limit, ends this task; the researcher is told."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon starts: no worker is left of what was running."""


Event = (
    TaskArrived
    | Granted
    | Refused
    | Finished
    | Died
    | ReplyReceipted
    | ReplyGivenUp
    | EndArrived
    | OrphanTimeout
    | Cancel
    | Restarted
)

# --- commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutTask:
    """Persist this row."""

    row: TaskRow


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Remove this row."""

    key: str


@dataclass(frozen=True, slots=True)
class PutJob:
    """Persist this row."""

    row: JobRow


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Remove this row."""

    job: str


@dataclass(frozen=True, slots=True)
class Reply:
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
    """End the worker that runs this task."""

    key: str


@dataclass(frozen=True, slots=True)
class Release:
    """Remove this task's spool."""

    key: str


@dataclass(frozen=True, slots=True)
class EndJob:
    """Retire the job's worker and scratch space."""

    job: str


Command = (
    PutTask | DeleteTask | PutJob | DeleteJob | Reply | Refuse | Unreply | Start | Kill | Release | EndJob
)

# --- the core ---------------------------------------------------------------------------


def step(book: Book, event: Event) -> tuple[Book, list[Command]]:
    """Advance by one event; see the module."""
    keeper = _Keeper(book)
    match event:
        case TaskArrived():
            keeper.arrived(event)
        case Granted(key):
            row = keeper.tasks.get(key)
            if row is not None and row.status == "waiting":
                keeper.put(replace(row, status="accepted"))
        case Refused(key, reason, detail):
            row = keeper.tasks.get(key)
            if row is not None and row.status in ("waiting", "accepted"):
                keeper.finish(row, "failed", reason, detail)
        case Finished():
            row = keeper.tasks.get(event.key)
            if row is not None and not row.finished:
                keeper.finish(row, "done" if event.ok else "failed", event.reason, event.detail, event.result)
        case Died(key, detail):
            keeper.died(key, detail)
        case Cancel(key, reason, detail):
            row = keeper.tasks.get(key)
            if row is not None and not row.finished:
                if row.status == "running":
                    keeper.commands.append(Kill(key))
                keeper.finish(row, "failed", reason, detail)
        case ReplyReceipted(reply):
            keeper.receipted(reply)
        case ReplyGivenUp(reply):
            for row in keeper.of_reply(reply):
                if keeper.is_past(row):
                    keeper.release(replace(row, reply=""))
                elif not row.acknowledged:
                    keeper.put(replace(row, reply=""))
        case EndArrived():
            keeper.ended(event)
        case OrphanTimeout(job):
            for row in keeper.of_job(job):
                keeper.release(row)
        case Restarted():
            for row in list(keeper.tasks.values()):
                if row.status == "running":
                    keeper.put(replace(row, status="accepted"))
    keeper.schedule()
    if not keeper.commands:
        return book, []  # every change is a command too
    return replace(book, tasks=keeper.tasks, jobs=keeper.jobs), keeper.commands


def reply_id(key: str, message: str) -> str:
    """Return the id of the reply to a message: the same whenever it is made, so a repeat is recognised."""
    return hashlib.sha256(f"reply\0{key}\0{message}".encode()).hexdigest()[:32]


class _Keeper:
    """A book being changed, inside one step: copies of its maps, and the commands so far."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.tasks = dict(book.tasks)
        self.jobs = dict(book.jobs)
        self.commands: list[Command] = []

    def put(self, row: TaskRow) -> None:
        self.tasks[row.key] = row
        self.commands.append(PutTask(row))

    def put_job(self, row: JobRow) -> None:
        self.jobs[row.job] = row
        self.commands.append(PutJob(row))

    def of_job(self, job: str) -> Iterator[TaskRow]:
        return iter([row for row in self.tasks.values() if row.job == job])

    def of_reply(self, reply: str) -> Iterator[TaskRow]:
        return iter([row for row in self.tasks.values() if row.reply == reply])

    def is_past(self, row: TaskRow) -> bool:
        """Tell whether the job has moved on, so that nobody will ask for this again."""
        job = self.jobs.get(row.job)
        return job is None or job.ended or (row.epoch == job.epoch and row.round < job.round)

    def arrived(self, event: TaskArrived) -> None:
        job = self.jobs.get(event.job)
        known = self.tasks.get(event.key)
        if job is not None:
            if job.researcher != event.researcher:
                return self.refuse(event, "not_permitted", "the job was begun by another researcher")
            if event.epoch < job.epoch:
                return self.refuse(event, "stale_epoch", f"the job's runner {job.epoch} has taken over")
            if event.epoch == job.epoch and job.ended:
                return self.refuse(event, "ended", "the job has ended")
            if event.epoch == job.epoch and event.round < job.round and known is None:
                return self.refuse(event, "stale_round", f"the job is at round {job.round}")
        self._follow(job, event)
        if known is not None:
            return self._again(known, event)
        self._supersede(event)
        self.put(
            TaskRow(
                key=event.key,
                job=event.job,
                researcher=event.researcher,
                dataset=event.dataset,
                round=event.round,
                step=event.step,
                epoch=event.epoch,
                attempt=event.attempt,
                reply_to=event.reply_to,
                message=event.message,
                order=event.order,
                seq=1 + max((row.seq for row in self.tasks.values()), default=0),
                status="accepted" if event.granted else "waiting",
            )
        )
        return None

    def refuse(self, event: TaskArrived, reason: str, detail: str) -> None:
        self.commands.append(Refuse(event, reason, detail, reply_id(event.key, event.message)))

    def _follow(self, job: JobRow | None, event: TaskArrived) -> None:
        """Move the job's fences; a new epoch takes over what the old runner left behind."""
        if job is None:
            seq = 1 + max((row.seq for row in self.jobs.values()), default=0)
            self.put_job(JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq))
            self._bound_jobs()
        elif event.epoch > job.epoch:
            self.put_job(replace(job, epoch=event.epoch, round=0, ended=False))
            for row in self.of_job(event.job):
                if row.status in ("waiting", "accepted"):
                    self.release(row)  # asked for again if it is still wanted
                elif row.finished and row.reply and not row.acknowledged:
                    self.commands.append(Unreply(row.reply))  # that session is gone
                    self.put(replace(row, reply=""))
        job = self.jobs[event.job]
        if event.round > job.round:
            self.put_job(replace(job, round=event.round))

    def _again(self, row: TaskRow, event: TaskArrived) -> None:
        """The same work is wanted again, perhaps by a new runner: it is not done again."""
        retry = row.status == "failed" and (event.epoch, event.attempt) > (row.epoch, row.attempt)
        old_reply = row.reply
        row = replace(
            row,
            epoch=event.epoch,
            attempt=event.attempt,
            reply_to=event.reply_to,
            message=event.message,
            order=event.order,
        )
        if row.finished and old_reply and not row.acknowledged:
            self.commands.append(Unreply(old_reply))
        if retry or row.status == "waiting":
            status = "accepted" if event.granted else "waiting"
            fresh = replace(row, status=status, deaths=0, reason="", detail="", result=b"", reply="")
            self.put(replace(fresh, acknowledged=False))
        elif row.finished:
            self.answer(row)
        else:
            self.put(row)

    def _supersede(self, event: TaskArrived) -> None:
        """Make room: finished work of earlier rounds that nobody waits for, and work that comes too late."""
        for row in self.of_job(event.job):
            if row.finished:
                if row.round < event.round and (row.acknowledged or not row.reply):
                    self.release(row)
            elif row.dataset == event.dataset and (row.round < event.round or row.epoch < event.epoch):
                self.release(row)

    def finish(self, row: TaskRow, status: str, reason: str, detail: str, result: bytes = b"") -> None:
        row = replace(row, status=status, reason=reason, detail=detail, result=result, acknowledged=False)
        if row.epoch == self.jobs[row.job].epoch:
            self.answer(row)
        else:
            self.put(replace(row, reply=""))  # who asked is gone; the next runner may ask

    def answer(self, row: TaskRow) -> None:
        row = replace(row, reply=reply_id(row.key, row.message), acknowledged=False)
        self.put(row)
        self.commands.append(Reply(row))

    def died(self, key: str, detail: str) -> None:
        row = self.tasks.get(key)
        if row is None or row.status != "running":
            return
        row = replace(row, deaths=row.deaths + 1)
        if row.deaths >= self.book.max_deaths:
            self.finish(row, "failed", "worker_died", detail)
        else:
            self.put(replace(row, status="accepted"))  # node state is copy-on-write: starting over is safe

    def receipted(self, reply: str) -> None:
        for row in self.of_reply(reply):
            if self.is_past(row):
                self.release(replace(row, acknowledged=True))
            elif not row.acknowledged:
                self.put(replace(row, acknowledged=True))

    def ended(self, event: EndArrived) -> None:
        job = self.jobs.get(event.job)
        if job is not None and (job.researcher != event.researcher or event.epoch < job.epoch):
            return
        for row in self.of_job(event.job):
            self.release(row)
        if job is None:  # a fence against its tasks, should they come after
            seq = 1 + max((row.seq for row in self.jobs.values()), default=0)
            job = JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq)
        self.put_job(replace(job, epoch=event.epoch, ended=True))
        self._bound_jobs()
        self.commands.append(EndJob(event.job))

    def release(self, row: TaskRow) -> None:
        """Take a task off the book: its worker, its reply, its row, its spool."""
        if row.status == "running":
            self.commands.append(Kill(row.key))
        if row.finished and row.reply and not row.acknowledged:
            self.commands.append(Unreply(row.reply))
        del self.tasks[row.key]
        self.commands += [DeleteTask(row.key), Release(row.key)]

    def schedule(self) -> None:
        """Start what fits, first come first served; a job that is at its limit is passed over."""
        running = Counter(row.job for row in self.tasks.values() if row.status == "running")
        accepted = [row for row in self.tasks.values() if row.status == "accepted"]
        for row in sorted(accepted, key=lambda row: row.seq):
            if running.total() >= self.book.slots:
                return
            if running[row.job] < self.book.per_job:
                running[row.job] += 1
                self.put(replace(row, status="running"))
                self.commands.append(Start(row.key))

    def _bound_jobs(self) -> None:
        """Forget the oldest jobs without tasks, beyond a limit."""
        if len(self.jobs) <= MAX_JOBS:
            return
        busy = {row.job for row in self.tasks.values()}
        newest = max(row.seq for row in self.jobs.values())
        idle = [row for row in self.jobs.values() if row.job not in busy and row.seq != newest]
        for row in sorted(idle, key=lambda row: row.seq)[: len(self.jobs) - MAX_JOBS]:
            del self.jobs[row.job]
            self.commands.append(DeleteJob(row.job))
