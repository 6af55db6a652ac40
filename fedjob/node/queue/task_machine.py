"""The queue of a node's tasks, as a pure state machine: each is computed once and answered as often as asked.

A pure core, `book, commands = step(book, event)`: no sockets, files, clocks or
threads. A `Book` is never changed in place, so a daemon whose transaction fails
keeps the old one and has lost nothing. Every change of a task's state is a step of
`lifecycle.TABLE`:

    (waiting for a grant) -> queued -> starting -> running -> completed | failed
    cancelled before it began; stopping -> killed | lost after that
    lost, and anything that failed -> waiting -> queued, when it is tried again

How the daemon maps commands: it feeds every event of one turn to `step`, and then

 1. in ONE transaction: `PutTask`, `DeleteTask`, `PutJob`, `DeleteJob` (rows, the last one of a
    key wins), `SendReply` and `Refuse` (`store.add(endpoint.prepare(..., id=command.reply))`),
    `Unreply` (`store.drop`), and `store.mark_seen` for the messages of the turn;
 2. after the commit, in order: `endpoint.post` the replies and the states of `ReportState`, `endpoint.withdraw`
    the unreplied, `Kill`, `Start`, `ReleaseSpool`, `EndJob`; then `endpoint.settle(messages)`.

A task whose worker is being ended is `stopping`, and holds its slot, until the
daemon reports `Gone`. The row's `after` names what follows then: its answer, its release, or its
return to the queue.

A kill between 1 and 2 is mended at the next start: the outbox is in the store,
`Restarted` starts what was running again, spool folders without a row are swept.
A worker's output is durable before the worker reports it; a task that starts again
with a complete output in the spool is `Finished` without being computed.

A task may launch children (`Launched`): rows of their own in the same queue, answered to
nobody but the parent. A parent that `Waits` for one gives its slot back, and gets one
again, before anything new is started, when the child has ended (`SendOutcome`). What ends a
parent ends its children.

Which tasks start, and in which order, is decided by `start_order` at the end of each step.
"""

from __future__ import annotations

from dataclasses import replace

from fedjob.common.lifecycle import State, advance
from fedjob.node.queue import task_events as events
from fedjob.node.queue.allocation import need_of
from fedjob.node.queue.book import Book, JobRow, TaskRow
from fedjob.node.queue.draft import BookDraft, reply_id
from fedjob.node.queue.start_order import schedule


def step(book: Book, event: events.Event) -> tuple[Book, list[events.Command]]:
    """Advance by one event; see the module.

    Raises:
        IllegalTransition: a task would take a step that the table of lives does not have.
    """
    draft = BookDraft(book)
    _Keeper(draft).take(event)
    if not isinstance(event, events.NodeStops):
        schedule(draft)
    if not draft.commands and draft.ledger is book.ledger:
        return book, []  # every other change is a command too
    return draft.changed_book(), draft.commands


class _Keeper:
    """Takes one event into a draft of the book."""

    def __init__(self, draft: BookDraft) -> None:
        self._draft = draft

    def take(self, event: events.Event) -> None:
        row = self._draft.tasks.get(getattr(event, "key", ""))
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
                self._draft.ledger = self._draft.ledger.expire(now)
            case events.OrphanTimeout(job):
                for orphan in self._draft.of_job(job):
                    if not orphan.finished:
                        self._draft.release(orphan, "abandoned", State.LOST)
                self._draft.free(job)
            case events.Forgotten(job):
                for forgotten in self._draft.of_job(job):
                    self._draft.release(forgotten, "abandoned", State.LOST)
                self._draft.free(job)
            case events.NodeStops():
                for running in self._draft.all_in(State.STARTING, State.RUNNING):
                    self._draft.move(running, State.STOPPING, after="again", reason="node_stopped")
            case events.Restarted():
                for left in self._draft.all_in(State.STARTING, State.RUNNING):
                    self._draft.queue_again(left, State.LOST)
                for stopping in self._draft.all_in(State.STOPPING):
                    self._draft.gone(stopping)
            case _:
                if row is not None:
                    self.take_about(row, event)

    def take_about(self, row: TaskRow, event: events.Event) -> None:
        """Take an event about one task that is here."""
        match event:
            case events.KeySucceeded(researcher_key=key):
                self._draft.put(replace(row, researcher_key=key))
            case events.Granted():
                if row.state == State.WAITING:
                    self._draft.move(row, State.QUEUED)
            case events.Refused(reason=reason, detail=detail):
                if row.state in (State.WAITING, State.QUEUED):
                    self._draft.finish(row, State.REJECTED, reason, detail)
            case events.Began(worker=worker):
                if row.state == State.STARTING:
                    self._draft.move(row, State.RUNNING, worker=worker)
            case events.Waits(child=child):
                if (
                    row.computing
                    and child in self._draft.tasks
                    and self._draft.tasks[child].parent == row.key
                ):
                    self._draft.put(replace(row, waits=child))
            case events.Finished():
                if row.computing:
                    state = State.COMPLETED if event.ok else State.FAILED
                    self._draft.finish(row, state, event.reason, event.detail, event.result)
            case events.Died():
                self.died(row, event.reason, event.detail)
            case events.Gone():
                if row.state == State.STOPPING:
                    self._draft.gone(row)
            case events.Overdue():
                if row.computing:
                    self._draft.commands.append(events.Kill(row.key))
                    self._draft.finish(row, State.FAILED, event.reason, event.detail)
            case events.Cancel(reason=reason, detail=detail):
                if row.computing or row.after == "again":
                    self._draft.stop(row, "answer", State.KILLED, reason, detail)
                elif row.state in (State.WAITING, State.QUEUED):
                    self._draft.finish(row, State.CANCELLED, reason, detail)

    # --- arrivals ------------------------------------------------------------------------------

    def arrived(self, event: events.TaskArrived) -> None:
        job = self._draft.jobs.get(event.job)
        known = self._draft.tasks.get(event.key)
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
            return self._again(self._draft.tasks[event.key], event)
        self._supersede(event)
        self._draft.put(
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
                seq=1 + max((row.seq for row in self._draft.tasks.values()), default=0),
                state=State.QUEUED if event.granted else State.WAITING,
                resources=event.resources,
                project=event.project,
                job_name=event.job_name,
                parent=event.parent,
                child=event.child,
                researcher_key=event.researcher_key,
            )
        )
        return None

    def refuse(self, event: events.TaskArrived, reason: str, detail: str) -> None:
        self._draft.commands.append(events.Refuse(event, reason, detail, reply_id(event.key, event.message)))

    def _follow(self, job: JobRow | None, event: events.TaskArrived) -> None:
        """Move the job's fences; a new epoch takes over what the old runner left behind."""
        if job is None:
            seq = 1 + max((row.seq for row in self._draft.jobs.values()), default=0)
            self._draft.put_job(
                JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq)
            )
            self._draft.bound_jobs()
        elif event.epoch > job.epoch:
            self._draft.put_job(replace(job, epoch=event.epoch, round=0, ended=False))
            for row in self._draft.of_job(event.job):
                if row.state in (State.WAITING, State.QUEUED) and row.key != event.key and not row.parent:
                    self._draft.release(row, "not_needed")  # asked for again if it is still wanted
                elif row.finished and row.reply and not row.acknowledged:
                    self._draft.commands.append(events.Unreply(row.reply))  # that session is gone
                    self._draft.put(replace(row, reply=""))
        job = self._draft.jobs[event.job]
        if event.round > job.round:
            self._draft.put_job(replace(job, round=event.round))

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
            researcher_key=event.researcher_key,
        )
        if row.finished and old_reply and not row.acknowledged:
            self._draft.commands.append(events.Unreply(old_reply))
        if row.finished and newer and row.state != State.COMPLETED:
            state = advance(row.state, State.WAITING)
            fresh = replace(row, state=state, worker=0, deaths=0, reason="", detail="", result=b"", reply="")
            self._draft.put(replace(fresh, acknowledged=False))
            if event.granted:
                self._draft.move(self._draft.tasks[row.key], State.QUEUED)
        elif row.state == State.WAITING and event.granted:
            self._draft.move(row, State.QUEUED)
        elif row.state == State.STOPPING and (newer or row.after == "release"):
            self._draft.put(replace(row, after="again", ends=""))
        elif row.finished:
            self._draft.answer(row)
        else:
            self._draft.put(row)

    def _supersede(self, event: events.TaskArrived) -> None:
        """Make room: finished work of earlier rounds that nobody waits for, and work that comes too late."""
        for row in self._draft.of_job(event.job):
            if row.finished:
                if row.round < event.round and (row.acknowledged or not row.reply):
                    self._draft.release(row, "")
            elif row.dataset == event.dataset and (row.round < event.round or row.epoch < event.epoch):
                self._draft.release(row, "not_needed")

    def launched(self, event: events.Launched) -> None:
        """Queue a child; one that the same parent launched before stands already."""
        parent, known = self._draft.tasks.get(event.parent), self._draft.tasks.get(event.key)
        if parent is None or not parent.computing:
            return
        if known is not None:
            if known.finished and known.state != State.COMPLETED:  # the parent is tried again, and so is this
                again = replace(known, state=advance(known.state, State.WAITING), deaths=0, reply="")
                self._draft.put(again)
                self._draft.move(again, State.QUEUED, reason="", detail="", result=b"", worker=0)
            return
        self._draft.put(
            replace(
                parent,
                key=event.key,
                parent=event.parent,
                child=event.place,
                step=event.step,
                order=event.order,
                inputs=event.inputs,
                seq=1 + max(row.seq for row in self._draft.tasks.values()),
                state=State.QUEUED,
                resources={},  # the job holds what it needs
                worker=0,
                deaths=0,
                waits="",
            )
        )

    def died(self, row: TaskRow, reason: str, detail: str) -> None:
        if not row.computing:
            return
        row = replace(row, deaths=row.deaths + 1)
        if row.deaths >= self._draft.book.max_deaths:
            self._draft.finish(row, State.FAILED, reason, detail)
        else:
            self._draft.queue_again(row, State.LOST)  # node state is copy-on-write: starting over is safe

    def receipted(self, reply: str) -> None:
        for row in self._draft.of_reply(reply):
            if self._draft.is_past(row):
                self._draft.drop(replace(row, acknowledged=True))
            elif not row.acknowledged:
                self._draft.put(replace(row, acknowledged=True))

    def given_up(self, reply: str) -> None:
        for row in self._draft.of_reply(reply):
            if self._draft.is_past(row):
                self._draft.drop(replace(row, reply=""))
            elif not row.acknowledged:
                self._draft.put(replace(row, reply=""))

    def ended(self, event: events.EndArrived) -> None:
        job = self._draft.jobs.get(event.job)
        if job is not None and (job.researcher != event.researcher or event.epoch < job.epoch):
            return
        for row in self._draft.of_job(event.job):
            self._draft.release(row, "killed" if event.outcome == "killed" else "not_needed")
        held = self._draft.ledger.holdings.get(event.job)
        if held is not None and held.researcher == event.researcher:
            self._draft.free(event.job)
        if job is None:  # a fence against its tasks, should they come after
            seq = 1 + max((row.seq for row in self._draft.jobs.values()), default=0)
            job = JobRow(job=event.job, researcher=event.researcher, epoch=event.epoch, seq=seq)
        self._draft.put_job(replace(job, epoch=event.epoch, ended=True))
        self._draft.bound_jobs()
        self._draft.commands.append(events.EndJob(event.job))

    def reserve(self, event: events.Reserve) -> None:
        job = self._draft.jobs.get(event.job)
        if job is None or job.researcher == event.researcher:
            need = need_of(event.resources)
            self._draft.ledger = (
                self._draft.ledger.reserve(event.job, event.researcher, need, event.until)
                or self._draft.ledger
            )
