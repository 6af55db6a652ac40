"""A node's tasks: accepted once, computed once, answered as often as asked, released when done with.

A pure core, `book, commands = step(book, event)`: no sockets, files, clocks or
threads. A `Book` is never changed in place, so a daemon whose transaction fails
keeps the old one and has lost nothing. Every change of a task's state is a step of
`lifecycle.TABLE`:

    (waiting for a grant) -> queued -> starting -> running -> completed | failed
    cancelled before it began; stopping -> killed | lost after that
    lost, and anything that failed -> waiting -> queued, when it is tried again

How the daemon maps commands: it feeds every event of one turn to `step`, and then

 1. in ONE transaction: `PutTask`, `DeleteTask`, `PutJob`, `DeleteJob` (rows, the last one of a
    key wins), `Reply` and `Refuse` (`store.add(endpoint.prepare(..., id=command.reply))`),
    `Unreply` (`store.drop`), and `store.mark_seen` for the messages of the turn;
 2. after the commit, in order: `endpoint.post` the replies and what `Say` says, `endpoint.withdraw`
    the unreplied, `Kill`, `Start`, `Release`, `EndJob`; then `endpoint.settle(messages)`.

A task whose worker is being ended is `stopping`, and holds its slot, until the
daemon says `Gone`. What `after` says comes then: its answer, its release, or its
return to the queue.

A kill between 1 and 2 is mended at the next start: the outbox is in the store,
`Restarted` starts what was running again, spool folders without a row are swept.
A worker's output is durable before the daemon hears of it; a task that starts again
with a complete output in the spool says `Finished` without being computed.

A task may launch children (`Launched`): rows of their own in the same queue, answered to
nobody but the parent. A parent that `Waits` for one gives its slot back, and gets one
again, before anything new is started, when the child has ended (`Tell`). What ends a
parent ends its children.

Tasks start in the order of arrival. Where several researchers wait, who has the
fewest tasks running goes first, then who was served longest ago. A task whose job
is at its limit, or whose resources are held by others, is passed over.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedjob.common.lifecycle import ACTIVE, HISTORY, TABLE, State, advance
from fedjob.common.needs import read_need
from fedjob.node import taskevents as events
from fedjob.node.families import children_of, failed_input, inputs_ready
from fedjob.node.taskbook import Book, JobRow, TaskRow

MAX_JOBS = 1000
TOLD = HISTORY | ACTIVE
"""States that who asked is told of."""


def step(book: Book, event: events.Event) -> tuple[Book, list[events.Command]]:
    """Advance by one event; see the module.

    Raises:
        IllegalTransition: a task would take a step that the table of lives does not have.
    """
    keeper = _Keeper(book)
    keeper.take(event)
    if not isinstance(event, events.NodeStops):
        keeper.schedule()
    if not keeper.commands and keeper.ledger is book.ledger:
        return book, []  # every other change is a command too
    book = replace(book, tasks=keeper.tasks, jobs=keeper.jobs, ledger=keeper.ledger, turns=keeper.turns)
    return book, keeper.commands


def reply_id(key: str, message: str) -> str:
    """Return the id of the reply to a message: the same whenever it is made, so a repeat is recognised."""
    return hashlib.sha256(f"reply\0{key}\0{message}".encode()).hexdigest()[:32]


class _Keeper:
    """A book being changed, inside one step: copies of its maps, and the commands so far."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.tasks = dict(book.tasks)
        self.jobs = dict(book.jobs)
        self.turns = dict(book.turns)
        self.ledger = book.ledger
        self.commands: list[events.Command] = []

    def take(self, event: events.Event) -> None:
        row = self.tasks.get(getattr(event, "key", ""))
        match event:
            case events.TaskArrived():
                self.arrived(event)
            case events.Launched():
                self.launched(event)
            case events.EndArrived():
                self.ended(event)
            case events.ReplyReceipted(reply):
                self.receipted(reply)
            case events.ReplyGivenUp(reply):
                self.given_up(reply)
            case events.Reserve():
                self.reserve(event)
            case events.TimePassed(now):
                self.ledger = self.ledger.expire(now)
            case events.OrphanTimeout(job):
                for orphan in self.of_job(job):
                    if not orphan.finished:
                        self.release(orphan, "abandoned", State.LOST)
                self.free(job)
            case events.Forgotten(job):
                for forgotten in self.of_job(job):
                    self.release(forgotten, "abandoned", State.LOST)
                self.free(job)
            case events.NodeStops():
                for running in self.all_in(State.STARTING, State.RUNNING):
                    self.move(running, State.STOPPING, after="again", reason="node_stopped")
            case events.Restarted():
                for left in self.all_in(State.STARTING, State.RUNNING):
                    self.queue_again(left, State.LOST)
                for stopping in self.all_in(State.STOPPING):
                    self.gone(stopping)
            case _:
                if row is not None:
                    self.take_about(row, event)

    def take_about(self, row: TaskRow, event: events.Event) -> None:
        """Take an event about one task that is here."""
        match event:
            case events.Granted():
                if row.state == State.WAITING:
                    self.move(row, State.QUEUED)
            case events.Refused(reason=reason, detail=detail):
                if row.state in (State.WAITING, State.QUEUED):
                    self.finish(row, State.REJECTED, reason, detail)
            case events.Began(worker=worker):
                if row.state == State.STARTING:
                    self.move(row, State.RUNNING, worker=worker)
            case events.Waits(child=child):
                if row.computing and child in self.tasks and self.tasks[child].parent == row.key:
                    self.put(replace(row, waits=child))
            case events.Finished():
                if row.computing:
                    state = State.COMPLETED if event.ok else State.FAILED
                    self.finish(row, state, event.reason, event.detail, event.result)
            case events.Died(detail=detail):
                self.died(row, detail)
            case events.Gone():
                if row.state == State.STOPPING:
                    self.gone(row)
            case events.Overdue(detail=detail):
                if row.computing:
                    self.commands.append(events.Kill(row.key))
                    self.finish(row, State.FAILED, "timeout", detail)
            case events.Cancel(reason=reason, detail=detail):
                if row.computing or row.after == "again":
                    self.stop(row, "answer", State.KILLED, reason, detail)
                elif row.state in (State.WAITING, State.QUEUED):
                    self.finish(row, State.CANCELLED, reason, detail)

    # --- rows ------------------------------------------------------------------------------

    def put(self, row: TaskRow) -> None:
        self.tasks[row.key] = row
        self.commands.append(events.PutTask(row))

    def put_job(self, row: JobRow) -> None:
        self.jobs[row.job] = row
        self.commands.append(events.PutJob(row))

    def move(self, row: TaskRow, state: State, **changes: Any) -> TaskRow:
        """Take a row one step of the table further, and say so."""
        row = replace(row, state=advance(row.state, state), **changes)
        self.put(row)
        if state in TOLD:
            self.commands.append(events.Say(row))
        return row

    def queue_again(self, row: TaskRow, via: State, **changes: Any) -> None:
        """Return a row to the queue: nothing of it was lost but time, so nobody is told."""
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

    # --- arrivals ------------------------------------------------------------------------------

    def arrived(self, event: events.TaskArrived) -> None:
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
            return self._again(self.tasks[event.key], event)
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
                state=State.QUEUED if event.granted else State.WAITING,
                resources=event.resources,
                project=event.project,
                job_name=event.job_name,
                parent=event.parent,
                child=event.child,
            )
        )
        return None

    def refuse(self, event: events.TaskArrived, reason: str, detail: str) -> None:
        self.commands.append(events.Refuse(event, reason, detail, reply_id(event.key, event.message)))

    def _follow(self, job: JobRow | None, event: events.TaskArrived) -> None:
        """Move the job's fences; a new epoch takes over what the old runner left behind."""
        if job is None:
            seq = 1 + max((row.seq for row in self.jobs.values()), default=0)
            self.put_job(JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq))
            self._bound_jobs()
        elif event.epoch > job.epoch:
            self.put_job(replace(job, epoch=event.epoch, round=0, ended=False))
            for row in self.of_job(event.job):
                if row.state in (State.WAITING, State.QUEUED) and row.key != event.key and not row.parent:
                    self.release(row, "not_needed")  # asked for again if it is still wanted
                elif row.finished and row.reply and not row.acknowledged:
                    self.commands.append(events.Unreply(row.reply))  # that session is gone
                    self.put(replace(row, reply=""))
        job = self.jobs[event.job]
        if event.round > job.round:
            self.put_job(replace(job, round=event.round))

    def _again(self, row: TaskRow, event: events.TaskArrived) -> None:
        """The same work is wanted again, perhaps by a new runner: it is not done again."""
        newer = (event.epoch, event.attempt) > (row.epoch, row.attempt)
        old_reply = row.reply
        row = replace(
            row,
            epoch=event.epoch,
            attempt=event.attempt,
            reply_to=event.reply_to,
            message=event.message,
            order=event.order,
            resources=event.resources,
        )
        if row.finished and old_reply and not row.acknowledged:
            self.commands.append(events.Unreply(old_reply))
        if row.finished and newer and row.state != State.COMPLETED:
            state = advance(row.state, State.WAITING)
            fresh = replace(row, state=state, worker=0, deaths=0, reason="", detail="", result=b"", reply="")
            self.put(replace(fresh, acknowledged=False))
            if event.granted:
                self.move(self.tasks[row.key], State.QUEUED)
        elif row.state == State.WAITING and event.granted:
            self.move(row, State.QUEUED)
        elif row.state == State.STOPPING and (newer or row.after == "release"):
            self.put(replace(row, after="again", ends=""))
        elif row.finished:
            self.answer(row)
        else:
            self.put(row)

    def _supersede(self, event: events.TaskArrived) -> None:
        """Make room: finished work of earlier rounds that nobody waits for, and work that comes too late."""
        for row in self.of_job(event.job):
            if row.finished:
                if row.round < event.round and (row.acknowledged or not row.reply):
                    self.release(row, "")
            elif row.dataset == event.dataset and (row.round < event.round or row.epoch < event.epoch):
                self.release(row, "not_needed")

    # --- children --------------------------------------------------------------------------

    def launched(self, event: events.Launched) -> None:
        """Queue a child; one that the same parent launched before stands already."""
        parent, known = self.tasks.get(event.parent), self.tasks.get(event.key)
        if parent is None or not parent.computing:
            return
        if known is not None:
            if known.finished and known.state != State.COMPLETED:  # the parent is tried again, and so is this
                again = replace(known, state=advance(known.state, State.WAITING), deaths=0, reply="")
                self.put(again)
                self.move(again, State.QUEUED, reason="", detail="", result=b"", worker=0)
            return
        self.put(
            replace(
                parent,
                key=event.key,
                parent=event.parent,
                child=event.place,
                step=event.step,
                order=event.order,
                inputs=event.inputs,
                seq=1 + max(row.seq for row in self.tasks.values()),
                state=State.QUEUED,
                resources={},  # the job holds what it needs
                worker=0,
                deaths=0,
                waits="",
            )
        )

    def settle_children(self) -> None:
        """End children that wait for a sibling in vain."""
        while True:
            lost = [
                (row, failed)
                for row in self.tasks.values()
                if row.state == State.QUEUED and (failed := failed_input(self.tasks, row)) is not None
            ]
            if not lost:
                return
            for row, failed in lost:
                self.finish(row, State.CANCELLED, failed.reason or "not_needed", failed.detail)

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
        if row.parent:  # its own parent is told, when it waits for this
            return
        if row.epoch == self.jobs[row.job].epoch:
            self.answer(row)
        else:
            self.put(replace(row, reply=""))  # who asked is gone; the next runner may ask

    def answer(self, row: TaskRow) -> None:
        row = replace(row, reply=reply_id(row.key, row.message), acknowledged=False)
        self.put(row)
        self.commands.append(events.Reply(row))

    def died(self, row: TaskRow, detail: str) -> None:
        if not row.computing:
            return
        row = replace(row, deaths=row.deaths + 1)
        if row.deaths >= self.book.max_deaths:
            self.finish(row, State.FAILED, "worker_died", detail)
        else:
            self.queue_again(row, State.LOST)  # node state is copy-on-write: starting over is safe

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
        self.commands += [events.DeleteTask(row), events.Release(row.key)]

    def receipted(self, reply: str) -> None:
        for row in self.of_reply(reply):
            if self.is_past(row):
                self.drop(replace(row, acknowledged=True))
            elif not row.acknowledged:
                self.put(replace(row, acknowledged=True))

    def given_up(self, reply: str) -> None:
        for row in self.of_reply(reply):
            if self.is_past(row):
                self.drop(replace(row, reply=""))
            elif not row.acknowledged:
                self.put(replace(row, reply=""))

    def ended(self, event: events.EndArrived) -> None:
        job = self.jobs.get(event.job)
        if job is not None and (job.researcher != event.researcher or event.epoch < job.epoch):
            return
        for row in self.of_job(event.job):
            self.release(row, "killed" if event.outcome == "killed" else "not_needed")
        held = self.ledger.holdings.get(event.job)
        if held is not None and held.researcher == event.researcher:
            self.free(event.job)
        if job is None:  # a fence against its tasks, should they come after
            seq = 1 + max((row.seq for row in self.jobs.values()), default=0)
            job = JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq)
        self.put_job(replace(job, epoch=event.epoch, ended=True))
        self._bound_jobs()
        self.commands.append(events.EndJob(event.job))

    # --- the queue ------------------------------------------------------------------------------

    def reserve(self, event: events.Reserve) -> None:
        job = self.jobs.get(event.job)
        if job is None or job.researcher == event.researcher:
            need = read_need(event.resources)
            self.ledger = self.ledger.reserve(event.job, event.researcher, need, event.until) or self.ledger

    def schedule(self) -> None:
        """Start what fits; see the module for the order."""
        self.settle_children()
        active = [row for row in self.tasks.values() if row.state in ACTIVE and not row.waits]
        free = self.book.slots - len(active)
        waiting = sorted((row for row in self.tasks.values() if row.waits), key=lambda row: row.seq)
        for row in waiting:
            child = self.tasks.get(row.waits)
            if free > 0 and row.computing and (child is None or child.finished):
                self.put(replace(row, waits=""))
                self.commands.append(events.Tell(row.key, row.waits))
                active.append(row)
                free -= 1
        if free <= 0 or not self.book.is_open:
            return
        ready = (r for r in self.tasks.values() if r.state == State.QUEUED and inputs_ready(self.tasks, r))
        queue = sorted(ready, key=lambda r: r.seq)
        if not queue:
            return
        per_job = Counter(row.job for row in active if not row.parent)
        per_place = Counter(self.place(row) for row in active)
        running = Counter(row.researcher for row in active)
        while free > 0:
            queue.sort(key=lambda r: (running[r.researcher], self.turns.get(r.researcher, 0), r.seq))
            for row in queue:
                if (row.parent or per_job[row.job] < self.book.per_job) and self.starts(row, per_place):
                    break
            else:
                return
            queue.remove(row)
            counted = [(per_place, self.place(row)), (running, row.researcher)]
            for counter, name in counted if row.parent else [(per_job, row.job), *counted]:
                counter[name] += 1
            self.turns[row.researcher] = 1 + max(self.turns.values(), default=0)
            free -= 1

    def place(self, row: TaskRow) -> str:
        pool = row.resources.get("pool", "")
        return self.ledger.capacity.place(pool) if isinstance(pool, str) else ""

    def starts(self, row: TaskRow, per_place: Counter[str]) -> bool:
        """Start a task if its pool has a free worker and what it needs is free or held for it."""
        pools, place = self.ledger.capacity.pools, self.place(row)
        limit = pools[place].workers if place else None
        if not place and pools:
            limit = self.book.slots - sum(part.workers or 0 for part in pools.values())
        if limit is not None and per_place[place] >= limit:
            return False
        ledger = self.ledger.take(row.job, row.researcher, read_need(row.resources))
        if ledger is None:
            return False
        self.ledger = ledger
        self.move(row, State.STARTING)
        self.commands.append(events.Start(row.key))
        return True

    def _bound_jobs(self) -> None:
        """Forget the oldest jobs without tasks, beyond a limit."""
        if len(self.jobs) <= MAX_JOBS:
            return
        busy = {row.job for row in self.tasks.values()}
        newest = max(row.seq for row in self.jobs.values())
        idle = [row for row in self.jobs.values() if row.job not in busy and row.seq != newest]
        for row in sorted(idle, key=lambda row: row.seq)[: len(self.jobs) - MAX_JOBS]:
            del self.jobs[row.job]
            self.commands.append(events.DeleteJob(row.job))
