"""The node's daemon: one loop that owns the endpoint, the book of tasks and the database.

A turn takes everything that is there: messages, what workers and threads
reported, receipts, the owner's decisions. It feeds the pure core, commits once,
and only then acts: replies leave, workers start and end, spools go, receipts are
sent. If the commit fails, nothing has happened and the turn is taken again. A
kill at any point is mended by the next start, see `taskkeeping`.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common import messages as wire
from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.endpoint import Endpoint, seen_entries
from fedjob.common.errors import EncodeError, FedjobError, PlanError
from fedjob.common.gate import parse_address
from fedjob.common.identity import Identity
from fedjob.common.messages import Message
from fedjob.common.outbox import Outgoing
from fedjob.common.repository.base import Repository
from fedjob.common.roster import Roster
from fedjob.common.transport.base import Transport
from fedjob.common.types import Ref, check_job_id
from fedjob.node import taskkeeping as keeping
from fedjob.node.database import Database
from fedjob.node.datasets import Datasets, told_within
from fedjob.node.grants import Grant, Grants, Waiting
from fedjob.node.policy import MAX_PLAN_BYTES, Verdict, examine_plan, judge
from fedjob.node.runs import (
    RETRY_AFTER_S,
    Ensured,
    Fetched,
    Prepared,
    RunEvent,
    Runs,
    Stored,
    Unprepared,
    Unstored,
    packed_result,
    refused,
    unpacked_result,
)
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.spool import Spool
from fedjob.node.store import DatabaseStore
from fedjob.node.taskstore import TaskStore
from fedjob.node.worker import Began, Emitted, Returned, WorkerDied, WorkerEvent, Workers

LEASE_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
START_WITHIN_S = 300.0
"""For fetching and for the fork server to import torch; not part of a task's own limit."""
TIDY_EVERY_S = 5.0
FACTS_EVERY_S = 1.0
SILENT_JOB_S = 30 * 24 * 3600.0
"""After which the tasks and node states of a job that nobody ended are removed."""
MAX_KEPT_TEXTS = 32
EVENTS_PER_S = 50.0

log = logging.getLogger(__name__)


@dataclass
class _Run:
    """One attempt to compute a task."""

    number: int
    folder: Path | None = None
    ends_at: float | None = None
    limit_s: float = 0.0
    stores: int = 0
    timing: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    tokens: float = EVENTS_PER_S
    filled: float = field(default_factory=time.monotonic)

    def lets_through(self) -> bool:
        """Whether one more event of this run may be passed on: a worker's own limit is not relied on."""
        now = time.monotonic()
        self.tokens = min(2 * EVENTS_PER_S, self.tokens + (now - self.filled) * EVENTS_PER_S)
        self.filled = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


@dataclass
class _Turn:
    """What one turn will commit, and do after that."""

    book: keeping.Book
    commands: list[keeping.Command] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)
    rows: list[Callable[[], None]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)

    def step(self, event: keeping.Event) -> list[keeping.Command]:
        """Feed the core."""
        self.book, commands = keeping.step(self.book, event)
        self.commands += commands
        return commands


Internal = WorkerEvent | RunEvent | keeping.ReplyReceipted | keeping.ReplyGivenUp


class Daemon:
    """A node at work.

    Args:
        config: the owner's settings.
        reload: returns them anew; called when the database or `config.toml` may have changed.
        crash_at: called with the name of each step between accept and release: `accepted`, `receipted`,
            `fetched`, `started`, `returned`, `kept`, `stored`, `done`, `replied`, `released`.
    """

    def __init__(
        self,
        *,
        home: NodeHome,
        config: NodeConfig,
        identity: Identity,
        federation: str,
        roster: Roster,
        transport: Transport,
        repository: Repository,
        reload: Callable[[], NodeConfig] | None = None,
        crash_at: Callable[[str], None] | None = None,
    ) -> None:
        home.create()
        self._home = home
        self._config = config
        self._reload = reload
        self._node = identity.party
        self._roster = roster
        self._point = crash_at or (lambda name: None)
        self._database = Database(home.database)
        self._tasks = TaskStore(self._database)
        self._datasets = Datasets(self._database)
        self._grants = Grants(self._database)
        self._store = DatabaseStore(self._database)
        self._endpoint = Endpoint(
            identity,
            federation,
            roster,
            transport,
            self._store,
            "node",
            on_receipt=lambda id_: self._internal.append(keeping.ReplyReceipted(id_)),
            on_give_up=lambda id_: self._internal.append(keeping.ReplyGivenUp(id_)),
        )
        self._spool = Spool(home, repository)
        self._workers = Workers(home, config, self._report)
        self._runs = Runs(
            home=home,
            config=config,
            node=self._node,
            spool=self._spool,
            repository=repository,
            notify=self._report,
            point=self._point,
        )
        self._book = keeping.Book()
        self._reports: queue.SimpleQueue[Internal] = queue.SimpleQueue()
        self._internal: list[Internal] = []
        self._backlog: list[Message] = []
        self._attempts: dict[str, _Run] = {}
        self._numbers = 0
        self._wants: dict[str, set[str]] = {}
        self._arrived: dict[str, float] = {}
        self._texts: dict[str, bytes] = {}
        self._asking: dict[str, list[Message]] = {}  # by sha256 of the plan that is being fetched
        self._ensured: dict[str, Message] = {}  # by message id, while the old result is looked after
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._stopping = threading.Event()
        self._leased = self._looked = self._tidied = self._told = 0.0
        self._facts = b""
        self._undecided = True  # there may be decisions of the time when no daemon ran
        self.ready = threading.Event()

    # --- life ------------------------------------------------------------------------------

    def run(self, *, connect_timeout_s: float = 10.0) -> None:
        """Work until `stop` is called from another thread or a signal handler.

        Raises:
            BrokerUnreachable: the broker does not answer at the start; later breaks are waited out.
        """
        try:
            self._recover()
            self._endpoint.start(connect_timeout_s)
            self.ready.set()
            while not self._stopping.is_set():
                self._backlog += self._endpoint.receive(self._patience())
                if not (self._turn() and self._look_around()):
                    self._stopping.wait(1.0)
        finally:
            self._close()

    def stop(self) -> None:
        """Let `run` return soon; unfinished tasks are taken up at the next start."""
        self._stopping.set()
        self._endpoint.wake()

    def _close(self) -> None:
        self._endpoint.stop()
        self._workers.stop()
        self._runs.stop()
        self._database.close()

    def _recover(self) -> None:
        """Take up what the last daemon left, however it ended."""
        self._book = self._tasks.load(slots=self._config.workers)
        unfailed = {key for key, row in self._book.tasks.items() if row.status != "failed"}
        done = {key for key in unfailed if self._book.tasks[key].status == "done"}
        self._spool.recover(unfailed, done, set(self._tasks.states()))
        for key, row in self._book.tasks.items():
            self._wants[key] = _objects_of(_task_of(row))
        turn = _Turn(self._book)
        turn.step(keeping.Restarted())
        self._commit(turn)

    def _report(self, event: Internal) -> None:
        """Take an event from another thread."""
        self._reports.put(event)
        self._endpoint.wake()

    def _patience(self) -> float:
        now = time.monotonic()
        due = [at - now for at, _ in self._timers]
        due += [run.ends_at - now for run in self._attempts.values() if run.ends_at is not None]
        return max(0.0, min([LOOK_EVERY_S, *due]))

    # --- a turn ------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Act on everything that is there, in one commit; tell whether that worked."""
        while True:
            try:
                self._internal.append(self._reports.get_nowait())
            except queue.Empty:
                break
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        if due:
            self._timers = [timer for timer in self._timers if timer[0] > now]
            for _, action in due:
                action()
        turn = _Turn(self._book)
        messages, internal = self._backlog, self._internal
        held = {plan: list(waiting) for plan, waiting in self._asking.items()}, dict(self._ensured)
        try:
            for event in internal:
                self._guarded(turn, lambda event=event: self._take(turn, event))  # type: ignore[misc]
            for message in messages:
                if not self._guarded(turn, lambda message=message: self._handle(turn, message)):  # type: ignore[misc]
                    turn.settled.append(message)
            self._end_overdue(turn, now)
            self._commit(turn)
        except sqlite3.Error as error:
            # nothing was committed, so nothing has happened: the same is tried again
            log.error("the database refused a commit, trying again: %s", error)
            self._asking, self._ensured = held
            return False
        self._backlog, self._internal = [], self._internal[len(internal) :]
        return True

    def _guarded(self, turn: _Turn, action: Callable[[], None]) -> bool:
        """Run a handler; whatever it raises costs its message and not the node."""
        book = turn.book
        lists: tuple[list[Any], ...] = (turn.commands, turn.outgoing, turn.rows, turn.after)
        lengths = [len(grown) for grown in lists]
        try:
            action()
        except sqlite3.Error:
            raise
        except Exception:
            log.exception("a message or report could not be handled")
            self._endpoint.counters["unhandled"] += 1
            turn.book = book
            for grown, length in zip(lists, lengths, strict=True):
                del grown[length:]
            return False
        return True

    def _commit(self, turn: _Turn) -> None:
        """Make a turn durable, then do what it says."""
        if not (turn.commands or turn.outgoing or turn.settled or turn.rows or turn.after):
            self._book = turn.book
            return
        replies = list(self._replies(turn))
        withdrawn = [c.reply for c in turn.commands if isinstance(c, keeping.Unreply)]
        lasting = [outgoing for outgoing in (*replies, *turn.outgoing) if outgoing.reliable]
        seen = seen_entries(turn.settled)
        durable = bool(lasting or seen or turn.rows or any(map(_lasts, turn.commands)))
        if durable or turn.commands:
            with self._database.transaction(durable=durable):
                for change in turn.rows:
                    change()
                self._put_rows(turn.commands)
                if withdrawn:
                    self._store.drop(withdrawn)
                for outgoing in lasting:
                    self._store.add(outgoing)
                if seen:
                    self._store.mark_seen(seen)
        self._book = turn.book
        if any(isinstance(c, keeping.PutTask) and not c.row.finished for c in turn.commands):
            self._point("accepted")
        if replies:
            self._point("done")
        for outgoing in (*replies, *turn.outgoing):
            self._endpoint.post(outgoing)
        if replies:
            self._point("replied")
        if withdrawn:
            self._endpoint.withdraw(withdrawn)
        self._act(turn.commands)
        for action in turn.after:
            action()
        if turn.settled:
            self._endpoint.settle(turn.settled)
            self._point("receipted")

    def _put_rows(self, commands: Iterable[keeping.Command]) -> None:
        last: dict[str, keeping.PutTask | keeping.DeleteTask] = {}
        for command in commands:
            match command:
                case keeping.PutTask(row=row):
                    last[row.key] = command
                case keeping.DeleteTask(key=key):
                    last[key] = command
                case keeping.PutJob(row=job):
                    self._tasks.put_job(job)
                case keeping.DeleteJob(job=name):
                    self._tasks.delete_job(name)
        for change in last.values():
            if isinstance(change, keeping.PutTask):
                self._tasks.put_task(change.row)
            else:
                self._tasks.delete_task(change.key)

    def _replies(self, turn: _Turn) -> Iterable[Outgoing]:
        """Encode the answers to tasks; of several to one message the last counts."""
        last: dict[str, Outgoing] = {}
        for command in turn.commands:
            match command:
                case keeping.Reply(row=row):
                    last[command.reply] = self._reply(row, command.reply)
                case keeping.Refuse(task=task, reason=reason, detail=detail, reply=reply):
                    body = refused(task.key, task.message, reason, detail)
                    last[reply] = self._endpoint.prepare(
                        parse_address(task.reply_to),
                        body,
                        job=task.job,
                        task=task.key,
                        round=task.round,
                        step=task.step,
                        attempt=task.attempt,
                        epoch=task.epoch,
                        id=reply,
                    )
                case keeping.Unreply(reply=gone):
                    last.pop(gone, None)
        return last.values()

    def _reply(self, row: keeping.TaskRow, reply: str) -> Outgoing:
        header = _header(row)
        result = unpacked_result(row)
        try:
            return self._endpoint.prepare(parse_address(row.reply_to), result, **header, id=reply)
        except EncodeError as error:
            short = refused(row.key, row.message, "too_large", str(error))
            return self._endpoint.prepare(parse_address(row.reply_to), short, **header, id=reply)

    def _act(self, commands: Iterable[keeping.Command]) -> None:
        released = False
        for command in commands:
            match command:
                case keeping.Kill(key=key):
                    self._end_attempt(key)
                case keeping.Start(key=key):
                    self._start(key)
                case keeping.Release(key=key):
                    released = True
                    self._wants.pop(key, None)
                    self._arrived.pop(key, None)
                    self._runs.later(lambda key=key: self._spool.release(key))  # type: ignore[misc]
                case keeping.EndJob(job=job):
                    self._workers.end_job(job)
        if released:
            wanted = set().union(*self._wants.values())
            self._runs.later(lambda: self._spool.keep_objects(wanted))
            self._point("released")

    # --- messages ------------------------------------------------------------------------------

    def _handle(self, turn: _Turn, message: Message) -> None:
        match message.body:
            case wire.Ping():
                pong = wire.Pong(
                    of=message.id,
                    version=_version(),
                    num_datasets=len(self._datasets.all()),
                    busy=len(self._attempts),
                )
                self._answer(turn, message, pong)
            case wire.Search(tags=tags, name=name):
                found = told_within(self._datasets.search(tags, name))
                self._answer(turn, message, wire.Found(of=message.id, datasets=found))
            case wire.Offer():
                self._handle_offer(turn, message, message.body)
            case wire.Task():
                self._handle_task(turn, message, message.body)
            case wire.End():
                self._handle_end(turn, message, message.body)
            case _:
                turn.settled.append(message)

    def _answer(self, turn: _Turn, message: Message, body: wire.Body) -> None:
        """Answer a message, and be done with it when that is committed."""
        turn.outgoing.append(
            self._endpoint.prepare(
                parse_address(message.reply_to), body, job=message.job, epoch=message.epoch
            )
        )
        turn.settled.append(message)

    def _judge(self, message: Message, wish: wire.Offer | wire.Task) -> Verdict:
        return judge(
            wish,
            researcher=message.sender,
            key_hex=self._roster.key_of(message.sender) or "",
            datasets=self._datasets,
            grants=self._grants,
            config=self._config,
        )

    def _text(self, plan: str) -> bytes | None:
        """Return a plan's text, if it is here."""
        kept = self._texts.get(plan)
        return kept if kept is not None else self._grants.text_of(plan)

    # --- offers

    def _handle_offer(self, turn: _Turn, message: Message, offer: wire.Offer) -> None:
        verdict = self._judge(message, offer)
        if verdict.subject is None or verdict.status == "rejected":
            return self._answer_offer(turn, message, verdict)
        missing: tuple[str, ...] = ()
        text = b""
        if offer.plan is not None:
            found = self._text(offer.plan.sha256)
            if found is None:
                return self._ask_for_plan(turn, message, offer.plan)
            text = found
            try:
                _, missing = examine_plan(text)
            except PlanError as error:
                return self._answer_offer(turn, message, Verdict("unknown", reason="plan", detail=str(error)))
            if missing:
                verdict = replace(
                    verdict,
                    status="unknown",
                    reason="missing_packages",
                    detail=f"the node lacks {', '.join(missing)}",
                )
                return self._answer_offer(turn, message, verdict, missing)
        if verdict.status == "pending" and not offer.dry:
            if verdict.grant is None:
                if self._grants.num_pending(message.sender) >= self._config.max_pending:
                    verdict = replace(
                        verdict, status="unknown", reason="busy", detail="too many open requests"
                    )
                    return self._answer_offer(turn, message, verdict)
                grant = self._grants.file(
                    verdict.subject,  # type: ignore[arg-type]
                    text,
                    protocol=offer.protocol,
                    job_name=offer.job_name,
                    note=offer.note,
                )
                verdict = replace(verdict, grant=grant, reason="", detail="its owner has not decided yet")
            assert verdict.grant is not None
            grant_id = verdict.grant.id
            waiting = Waiting(message.id, message.reply_to, message.job)
            turn.rows.append(lambda: self._grants.wait(grant_id, waiting))
        if verdict.allowed and not offer.dry:
            turn.after.append(self._workers.warm_up)
        return self._answer_offer(turn, message, verdict)

    def _answer_offer(
        self, turn: _Turn, message: Message, verdict: Verdict, missing: tuple[str, ...] = ()
    ) -> None:
        num_rows = 0 if verdict.dataset is None else verdict.dataset.num_rows
        note = verdict.grant.note if verdict.grant is not None and verdict.grant.note else verdict.detail
        answer = wire.Answer(
            of=message.id,
            status=verdict.status,
            reason=verdict.reason,
            note=note[:2000],
            missing=list(missing),
            num_rows=num_rows,
            grant="" if verdict.grant is None else verdict.grant.id,
        )
        self._answer(turn, message, answer)

    def _ask_for_plan(self, turn: _Turn, message: Message, plan: Ref) -> None:
        """Fetch a plan's text; the offers that wait for it are handled when it is here."""
        waiting = self._asking.get(plan.sha256)
        if waiting is not None:
            waiting.append(message)
            return
        self._asking[plan.sha256] = [message]
        turn.after.append(lambda: self._runs.fetch(plan, MAX_PLAN_BYTES))

    def _take_plan(self, turn: _Turn, event: Fetched) -> None:
        waiting = self._asking.pop(event.ref.sha256, [])
        if event.data is None:
            verdict = Verdict("unknown", reason="repository", detail=event.detail or event.reason)
            for message in waiting:
                self._answer_offer(turn, message, verdict)
            return
        self._keep_text(event.ref.sha256, event.data)
        for message in waiting:
            self._handle(turn, message)

    def _keep_text(self, sha256: str, data: bytes) -> None:
        if data and sha256 not in self._texts and hashlib.sha256(data).hexdigest() == sha256:
            while len(self._texts) >= MAX_KEPT_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[sha256] = data

    # --- tasks

    def _handle_task(self, turn: _Turn, message: Message, task: wire.Task, *, ensured: bool = False) -> None:
        check_job_id(message.job)
        key = wire.work_key(
            job=message.job, round_=message.round, step=message.step, node=self._node, task=task
        )
        arrived = keeping.TaskArrived(
            key=key,
            job=message.job,
            researcher=message.sender,
            dataset=task.dataset,
            round=message.round,
            step=message.step,
            epoch=message.epoch,
            attempt=message.attempt,
            reply_to=message.reply_to,
            message=message.id,
            order=pack(to_plain(task)),
        )
        verdict = self._judge(message, task)
        known = turn.book.tasks.get(key)
        if not verdict.allowed:
            reason = verdict.reason or "plan_not_approved"
            if verdict.status in ("pending", "rejected"):
                reason = "plan_not_approved"
            self._refuse(turn, message, arrived, reason, verdict.detail)
            return
        if task.state is not None and not _is_state_id(task.state):
            self._refuse(turn, message, arrived, "state_missing", "no node state is named so")
            return
        if known is None and (full := self._full(turn.book, message.sender)):
            self._refuse(turn, message, arrived, "busy", full)
            return
        if known is not None and known.status == "done" and not ensured:
            # asked again, maybe after a long time: first see that what the answer refers to is still there
            self._ensured[message.id] = message
            turn.after.append(lambda: self._runs.ensure(known, message.id))
            return
        commands = turn.step(arrived)
        if any(isinstance(command, keeping.PutTask) for command in commands):
            self._wants[key] = _objects_of(task)
            self._arrived.setdefault(key, time.monotonic())
            if task.keep_states is not None:
                self._drop_states(turn, message.job, {*task.keep_states, task.state or ""}, message.round)
        turn.settled.append(message)

    def _refuse(
        self, turn: _Turn, message: Message, arrived: keeping.TaskArrived, reason: str, detail: str
    ) -> None:
        reply = keeping.reply_id(arrived.key, arrived.message)
        turn.commands.append(keeping.Refuse(arrived, reason, detail, reply))
        turn.settled.append(message)

    def _full(self, book: keeping.Book, researcher: str) -> str:
        open_tasks = book.unfinished()
        if len(open_tasks) >= self._config.max_tasks:
            return f"this node has {len(open_tasks)} open tasks"
        own = sum(row.researcher == researcher for row in open_tasks)
        if own >= self._config.max_tasks_per_researcher:
            return f"{researcher} has {own} open tasks here"
        return ""

    def _handle_end(self, turn: _Turn, message: Message, end: wire.End) -> None:
        check_job_id(message.job)
        commands = turn.step(
            keeping.EndArrived(job=message.job, researcher=message.sender, epoch=message.epoch)
        )
        if any(isinstance(command, keeping.EndJob) for command in commands):
            self._drop_states(turn, message.job, end.keep_states)
            turn.rows.append(lambda: self._grants.forget_job(message.job))
        turn.settled.append(message)

    def _drop_states(
        self, turn: _Turn, job: str, keep: Collection[str], before: int | None = None
    ) -> None:
        gone: list[str] = []
        turn.rows.append(lambda: gone.extend(self._tasks.drop_states(job, keep, before)))
        turn.after.append(
            lambda: self._runs.later(lambda: self._spool.drop_states(job, gone)) if gone else None
        )

    # --- reports ------------------------------------------------------------------------------

    def _take(self, turn: _Turn, event: Internal) -> None:
        match event:
            case keeping.ReplyReceipted() | keeping.ReplyGivenUp():
                turn.step(event)
            case Fetched():
                self._take_plan(turn, event)
            case Ensured(message=id_):
                message = self._ensured.pop(id_, None)
                if message is not None and isinstance(message.body, wire.Task):
                    self._handle_task(turn, message, message.body, ensured=True)
            case Emitted(key=key, run=number):
                run = self._attempts.get(key)
                if run is not None and run.number == number and run.lets_through():
                    self._pass_on(turn, key, wire.Event(type=event.type, data=event.data))
            case _:
                run = self._attempts.get(event.key)
                if run is not None and run.number == event.run:
                    self._advance(turn, run, event)

    def _pass_on(self, turn: _Turn, key: str, event: wire.Event) -> None:
        row = turn.book.tasks.get(key)
        if row is not None:
            turn.outgoing.append(self._endpoint.prepare(parse_address(row.reply_to), event, **_header(row)))

    def _advance(
        self,
        turn: _Turn,
        run: _Run,
        event: Prepared | Unprepared | Stored | Unstored | Began | Returned | WorkerDied,
    ) -> None:
        """Take a running task one stage further."""
        key = event.key
        row = turn.book.tasks.get(key)
        if row is None:
            return
        match event:
            case Prepared(order=order):
                text = order.plan_text.encode()
                self._keep_text(hashlib.sha256(text).hexdigest(), text)
                turn.after.append(lambda: self._work(run, order))
            case Unprepared(reason=reason, detail=detail):
                turn.after.append(lambda: self._end_attempt(key, run))
                turn.step(keeping.Finished(key, False, b"", reason, detail))
            case Began():
                run.ends_at = time.monotonic() + run.limit_s
            case Returned():
                self._point("returned")
                run.ends_at = None
                turn.after.append(lambda: self._store_result(row, run))
            case Unstored(detail=detail):
                pause = RETRY_AFTER_S[min(run.stores, len(RETRY_AFTER_S) - 1)]
                run.stores += 1
                log.warning("a result waits for the repository: %s", detail)
                self._timers.append((time.monotonic() + pause, lambda: self._store_again(key, run)))
            case WorkerDied(detail=detail):
                turn.after.append(lambda: self._end_attempt(key, run))
                turn.step(keeping.Died(key, detail))
            case Stored():
                turn.after.append(lambda: self._forget_attempt(key, run))
                self._finish(turn, row, event, run)

    def _finish(self, turn: _Turn, row: keeping.TaskRow, stored: Stored, run: _Run) -> None:
        result = replace(stored.result, timing={**stored.result.timing, **run.timing})
        if stored.trace or stored.message:
            log.warning(
                "task %s of job %s, round %d, failed: %s\n%s",
                row.key[:12],
                row.job,
                row.round,
                stored.message,
                stored.trace,
            )
        if result.ok and stored.state:
            turn.rows.append(lambda: self._tasks.add_state(row.job, stored.state, row.round))
        if not result.ok:  # the row says it all; what lies in the spool would stand in a retry's way
            turn.after.append(lambda: self._runs.later(lambda: self._spool.release(row.key)))
        packed = packed_result(result)
        turn.step(keeping.Finished(row.key, result.ok, packed, result.reason, result.detail))

    # --- attempts ------------------------------------------------------------------------------

    def _start(self, key: str) -> None:
        """Begin to compute a task, or to bring home what was computed before a kill."""
        row = self._book.tasks.get(key)
        if row is None or row.status != "running":
            return
        self._numbers += 1
        run = self._attempts[key] = _Run(self._numbers)
        run.timing["queued"] = run.started - self._arrived.pop(key, run.started)
        if self._spool.has_result(key):
            self._store_result(row, run)
            return
        task = _task_of(row)
        dataset = self._datasets.find(task.dataset)
        if dataset is None:
            self._report(Unprepared(key, run.number, "no_dataset", "the dataset was removed"))
            return
        self._workers.warm_up()
        run.folder = self._spool.begin(key)
        run.limit_s = min(task.limit_s or self._config.task_limit_s, self._config.task_limit_s)
        run.ends_at = time.monotonic() + START_WITHIN_S + run.limit_s
        text = None if task.plan is None else self._text(task.plan.sha256)
        self._runs.prepare(row, run.number, task, dataset, text, run.folder)
        self._point("started")

    def _work(self, run: _Run, order: Any) -> None:
        if self._attempts.get(order.key) is run:
            run.timing["fetch"] = time.monotonic() - run.started
            if self._workers.run(order, run.number):
                run.ends_at = time.monotonic() + run.limit_s

    def _store_result(self, row: keeping.TaskRow, run: _Run) -> None:
        dataset = self._datasets.find(row.dataset)
        folder = None if self._spool.has_result(row.key) else run.folder
        self._runs.store(row, run.number, folder, min_rows=0 if dataset is None else dataset.min_rows)

    def _store_again(self, key: str, run: _Run) -> None:
        row = self._book.tasks.get(key)
        if row is not None and self._attempts.get(key) is run:
            self._store_result(row, run)

    def _end_attempt(self, key: str, run: _Run | None = None) -> None:
        """Stop computing a task, wherever it is."""
        found = run or self._attempts.get(key)
        if found is None:
            return
        if self._attempts.get(key) is found:
            del self._attempts[key]
            self._workers.kill(key)
        folder = found.folder
        if folder is not None:
            self._runs.later(lambda: self._spool.discard(folder))

    def _forget_attempt(self, key: str, run: _Run) -> None:
        if self._attempts.get(key) is run:
            del self._attempts[key]

    def _end_overdue(self, turn: _Turn, now: float) -> None:
        for key, run in list(self._attempts.items()):
            if run.ends_at is not None and run.ends_at <= now:
                row = turn.book.tasks.get(key)
                if row is None:
                    run.ends_at = None
                else:
                    turn.step(keeping.Cancel(key, "timeout", "the work took longer than its limit"))

    # --- from time to time ------------------------------------------------------------------------

    def _look_around(self) -> bool:
        """Do what is due from time to time; tell whether the database played along."""
        now = time.monotonic()
        try:
            if now - self._leased >= LEASE_EVERY_S:
                self._leased = now
                self._send_leases()
            if now - self._looked >= LOOK_EVERY_S:
                self._looked = now
                if self._undecided or self._database.changed():
                    self._announce()
                self._follow_config()
            if now - self._tidied >= TIDY_EVERY_S:
                self._tidied = now
                self._workers.tidy()
                self._end_silent_jobs()
            if now - self._told >= FACTS_EVERY_S:
                self._told = now
                self._tell_facts()
        except sqlite3.Error as error:
            log.error("the database refused a commit, trying again: %s", error)
            return False
        return True

    def _send_leases(self) -> None:
        for row in self._book.unfinished():
            lease = wire.Event(type="lease", data={"status": row.status})
            self._endpoint.send(parse_address(row.reply_to), lease, **_header(row))

    def _announce(self) -> None:
        """Tell those who wait what the owner decided."""
        turn = _Turn(self._book)
        for grant, waiting in self._grants.decided():
            for one in waiting:
                turn.outgoing.append(self._answer_waiting(grant, one))
            turn.rows.append(lambda grant=grant: self._grants.told(grant.id))  # type: ignore[misc]
            if grant.status == "approved" and waiting:
                turn.after.append(self._workers.warm_up)
        self._undecided = True  # until it is committed
        self._commit(turn)
        self._undecided = False

    def _answer_waiting(self, grant: Grant, waiting: Waiting) -> Outgoing:
        dataset = self._datasets.find(grant.subject.dataset)
        answer = wire.Answer(
            of=waiting.offer,
            status="granted" if grant.status == "approved" else "rejected",
            reason="" if grant.status == "approved" else "rejected",
            note=grant.note,
            num_rows=0 if dataset is None else dataset.num_rows,
            grant=grant.id,
        )
        return self._endpoint.prepare(parse_address(waiting.reply_to), answer, job=waiting.job)

    def _follow_config(self) -> None:
        if self._reload is None:
            return
        try:
            config = self._reload()
        except FedjobError as error:
            log.warning("the settings are kept as they were: %s", error)
            return
        if config == self._config:
            return
        self._config = self._workers.config = self._runs.config = config
        turn = _Turn(replace(self._book, slots=config.workers))
        turn.step(keeping.Granted(""))  # of nothing: it only fills the new slots
        self._commit(turn)

    def _end_silent_jobs(self) -> None:
        silent = self._tasks.silent_jobs(time.time() - SILENT_JOB_S)
        if silent:
            turn = _Turn(self._book)
            for job in silent:
                turn.step(keeping.OrphanTimeout(job))
                self._drop_states(turn, job, ())
            self._commit(turn)

    def _tell_facts(self) -> None:
        """Write down what `fedjob node status` shows of a running daemon, when it has changed."""
        facts = {
            "connected": self._endpoint.connected,
            "counters": dict(self._endpoint.counters),
            "undelivered": self._endpoint.undelivered(),
            "workers": self._workers.facts(),
        }
        packed = pack(facts)
        if packed == self._facts:
            return
        with self._database.transaction(durable=False):
            self._database.execute("INSERT OR REPLACE INTO live VALUES (1, ?, ?)", (time.time(), packed))
        self._facts = packed


def _header(row: keeping.TaskRow) -> dict[str, Any]:
    return {
        "job": row.job,
        "task": row.key,
        "round": row.round,
        "step": row.step,
        "attempt": row.attempt,
        "epoch": row.epoch,
    }


def _task_of(row: keeping.TaskRow) -> wire.Task:
    return from_plain(wire.Task, unpack(row.order))


def _objects_of(task: wire.Task) -> set[str]:
    return {ref.sha256 for ref in (*task.params.values(), *task.blobs.values())}


def _is_state_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _lasts(command: keeping.Command) -> bool:
    """Whether losing this command's row to a power cut would cost more than a resend."""
    if isinstance(command, keeping.PutTask):
        return not command.row.acknowledged
    return isinstance(command, (keeping.PutJob, keeping.DeleteTask))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fedjob")
    except PackageNotFoundError:
        return ""
