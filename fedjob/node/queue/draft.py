"""The draft of a node's book within one step: copies of its maps, and the commands so far. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedjob.common.lifecycle import ACTIVE, HISTORY, TABLE, State, advance
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book, JobRow, TaskRow, children_of

MAX_JOBS = 1000
REPORTED = HISTORY | ACTIVE
"""States that are reported to who asked."""


def reply_id(key: str, message: str) -> str:
    """Return the id of the reply to a message: the same whenever it is made, so a repeat is recognised."""
    return hashlib.sha256(f"reply\0{key}\0{message}".encode()).hexdigest()[:32]


class BookDraft:
    """The book as it will be, and what a row's change entails for its reply, its worker and its children."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.tasks = dict(book.tasks)
        self.jobs = dict(book.jobs)
        self.turns = dict(book.turns)
        self.ledger = book.ledger
        self.commands: list[events.Command] = []

    def changed_book(self) -> Book:
        """Return the book with all changes."""
        return replace(self.book, tasks=self.tasks, jobs=self.jobs, ledger=self.ledger, turns=self.turns)

    # --- rows ------------------------------------------------------------------------------

    def put(self, row: TaskRow) -> None:
        self.tasks[row.key] = row
        self.commands.append(events.PutTask(row))

    def put_job(self, row: JobRow) -> None:
        self.jobs[row.job] = row
        self.commands.append(events.PutJob(row))

    def move(self, row: TaskRow, state: State, **changes: Any) -> TaskRow:
        """Take a row one step of the table further, and report its new state."""
        row = replace(row, state=advance(row.state, state), **changes)
        self.put(row)
        if state in REPORTED:
            self.commands.append(events.ReportState(row))
        return row

    def queue_again(self, row: TaskRow, via: State, **changes: Any) -> None:
        """Return a row to the queue: only time was lost, so nothing is reported."""
        for state in (via, State.WAITING, State.QUEUED):
            row = replace(row, state=advance(row.state, state))
        self.put(replace(row, worker=0, after="", ends="", reason="", detail="", waits="", **changes))

    def all_in(self, *states: State) -> list[TaskRow]:
        return [row for row in self.tasks.values() if row.state in states]

    def of_job(self, job: str) -> Iterator[TaskRow]:
        return iter([row for row in self.tasks.values() if row.job == job])

    def of_reply(self, reply: str) -> Iterator[TaskRow]:
        return iter([row for row in self.tasks.values() if row.reply == reply])

    def is_past(self, row: TaskRow) -> bool:
        """Tell whether the job has moved on, so that nobody will ask for this again."""
        job = self.jobs.get(row.job)
        return job is None or job.ended or (row.epoch == job.epoch and row.round < job.round)

    def bound_jobs(self) -> None:
        """Forget the oldest jobs without tasks, beyond a limit."""
        if len(self.jobs) <= MAX_JOBS:
            return
        busy = {row.job for row in self.tasks.values()}
        newest = max(row.seq for row in self.jobs.values())
        idle = [row for row in self.jobs.values() if row.job not in busy and row.seq != newest]
        for row in sorted(idle, key=lambda row: row.seq)[: len(self.jobs) - MAX_JOBS]:
            del self.jobs[row.job]
            self.commands.append(events.DeleteJob(row.job))

    # --- ends ------------------------------------------------------------------------------

    def finish(self, row: TaskRow, state: State, reason: str, detail: str, result: bytes = b"") -> None:
        """End a task, and answer it."""
        if row.state == State.STARTING and state not in TABLE[State.STARTING]:
            row = replace(row, state=advance(row.state, State.RUNNING))  # it was found in the spool
        row = self.move(
            row,
            state,
            reason=reason,
            detail=detail,
            result=result,
            after="",
            ends="",
            waits="",
            acknowledged=False,
        )
        for child in children_of(self.tasks, row):
            self.release(child, "not_needed")
        if row.parent:  # only its parent learns of it, when it waits for this
            return
        if row.epoch == self.jobs[row.job].epoch:
            self.answer(row)
        else:
            self.put(replace(row, reply=""))  # who asked is gone; the next runner may ask

    def answer(self, row: TaskRow) -> None:
        row = replace(row, reply=reply_id(row.key, row.message), acknowledged=False)
        self.put(row)
        self.commands.append(events.SendReply(row))

    def stop(self, row: TaskRow, after: str, ends: State, reason: str, detail: str = "") -> None:
        """End a task's worker; what follows comes when nothing is left of it."""
        changes: dict[str, Any] = {"after": after, "ends": ends, "reason": reason, "detail": detail}
        if row.computing:
            self.commands.append(events.Kill(row.key))
            self.move(row, State.STOPPING, **changes)
        else:
            self.put(replace(row, **changes))

    def gone(self, row: TaskRow) -> None:
        """Nothing is left of a stopping task's worker: do what was to follow."""
        if row.after == "again":
            self.queue_again(row, State.LOST)
        elif row.after == "answer":
            self.finish(row, State(row.ends), row.reason, row.detail)
        else:
            self.drop(self.move(row, State(row.ends)))
            if not any(self.of_job(row.job)):
                self.free(row.job)

    def free(self, job: str) -> None:
        """Give back what a job holds, unless a worker of it still lives: then when that is gone."""
        if not any(row.state in ACTIVE for row in self.of_job(job)):
            self.ledger = self.ledger.free(job)

    def release(self, row: TaskRow, reason: str, ends: State = State.KILLED) -> None:
        """Take a task off the book: its worker, its reply, its row, its spool; and its children."""
        for child in children_of(self.tasks, row):
            self.release(child, reason, ends)
        if row.computing or row.state == State.STOPPING:
            self.stop(row, "release", ends, reason)
        elif row.finished:
            self.drop(row)
        else:
            self.drop(self.move(row, State.CANCELLED, reason=reason))

    def drop(self, row: TaskRow) -> None:
        if row.reply and not row.acknowledged:
            self.commands.append(events.Unreply(row.reply))
        del self.tasks[row.key]
        self.commands += [events.DeleteTask(row), events.ReleaseSpool(row.key)]
