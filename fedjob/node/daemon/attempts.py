"""The attempts to compute tasks: each is prepared, given to a worker, and stored or ended."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.types import contacts_text
from fedjob.execution.orders import WorkOrder
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Event, Result, Task
from fedjob.messaging.outbox import Outgoing
from fedjob.messaging.token_bucket import TokenBucket
from fedjob.node.daemon.child_tasks import ChildTasks
from fedjob.node.daemon.commit import log_fields
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.sums import SumHandler
from fedjob.node.daemon.turn import Reports, Turn
from fedjob.node.data.datasets import RegisteredDataset
from fedjob.node.execution.inputs import TaskInputs, is_at_hand
from fedjob.node.execution.outputs import StoredResult, concealed, store_small, withheld
from fedjob.node.execution.transfers import RETRY_AFTER_S, Prepared, Unprepared, Unstored
from fedjob.node.execution.worker_events import (
    ChildAwaited,
    ChildRequested,
    WorkerBegan,
    WorkerDied,
    WorkerEmitted,
    WorkerEvent,
    WorkerGone,
    WorkerOverran,
    WorkerReturned,
    WorkerUnclosed,
)
from fedjob.node.execution.worker_place import WorkerIdentity
from fedjob.node.grants.grant import matches_any
from fedjob.node.hooks.dispatcher import HookCalls
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book, TaskRow, root_of
from fedjob.node.queue.task import (
    WantedObjects,
    failure_words,
    header_of,
    is_full,
    objects_of,
    origin_of,
    packed_result,
    task_of,
    unpacked_result,
)
from fedjob.node.sandbox.support import REFUSED
from fedjob.node.storage.logs import Forwarding, add_trace, close_log, has_log
from fedjob.node.storage.spool import SmallOutput
from fedjob.protocols.inference import LEFT

START_WITHIN_S = 300.0
"""For fetching and for the fork server to import torch; not part of a task's own limit."""

GONE_WITHIN_S = 10.0
"""For a killed worker to end in; after that its task goes on without."""

EVENTS_PER_S = 50.0
LOGS_EVERY_S = 0.5
OWN_EVENTS = ("lease", "log", "state", "grant")
"""Types of events that only the node itself sends: user code can't emit them."""

Stage = Prepared | Unprepared | StoredResult | Unstored | WorkerEvent

log = logging.getLogger(__name__)


@dataclass
class TaskAttempt:
    """One attempt to compute a task.

    Args:
        number: distinguishes it from other attempts at the same task.
        folder: that the daemon puts in what the worker gives.
        sandbox: the kind that was in force when it began.
        ends_at: when it is ended, in monotonic seconds.
        stores: how often the repository did not take the result.
        moved: seconds of its transfers, `fetch` and `store`, where there were any and they went at once.
        gpus: the devices that its job holds.
        log: what of its output goes to the researcher.
        children: number -> key, of what it launched.
        events: lets them pass; a worker's own limit is not relied on.
        uncounted: it fetches what nobody has counted yet: that counts with its result, or when it ends without one.
        here: hashes of its objects that an earlier task has fetched: it does without fetching them.
    """

    number: int
    folder: Path | None = None
    sandbox: str = ""
    ends_at: float | None = None
    limit_s: float = 0.0
    stores: int = 0
    moved: dict[str, float] = field(default_factory=dict)
    returned: float = 0.0
    gpus: tuple[int, ...] = ()
    log: Forwarding | None = None
    children: dict[int, str] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    events: TokenBucket = field(
        default_factory=lambda: TokenBucket(EVENTS_PER_S, 2 * EVENTS_PER_S, EVENTS_PER_S, time.monotonic())
    )
    uncounted: bool = False
    here: frozenset[str] = frozenset()


class Attempts:
    """The attempts that are under way at this node.

    Args:
        reports: take a `Stage` as if a thread had reported it.
        hooks: receive the events that tasks emit.
        sums: adds the node's keys to answers whose contributions are to be summed.
    """

    def __init__(
        self, context: NodeContext, reports: Reports[Any], hooks: HookCalls, sums: SumHandler
    ) -> None:
        self._context = context
        self._report, self._report_soon = reports.put, reports.put_soon
        self._hooks = hooks
        self._sums = sums
        self._attempts: dict[str, TaskAttempt] = {}
        self._number = 0
        self._again: list[tuple[float, str, TaskAttempt]] = []
        self._ending: dict[str, tuple[float, TaskAttempt | None]] = {}  # by key, workers that were killed
        self._logs_read = 0.0
        self.wanted = WantedObjects()
        self.arrived: dict[str, float] = {}
        self._child_tasks = ChildTasks(context)

    def __len__(self) -> int:
        return len(self._attempts)

    def recover(self, book: Book) -> None:
        """Note what the tasks of the last daemon need."""
        for key, row in book.tasks.items():
            self.wanted.add(key, row.job, task_of(row))
            if row.state == State.COMPLETED:
                self.wanted.answer(key, unpacked_result(row).attached)
        jobs = {row.job for row in book.tasks.values()}
        self._context.transfers.brought.recover(jobs)
        self._context.job_secrets.keep(jobs)
        self._context.attached.keep(self.wanted.hashes)

    def next_due(self) -> float | None:
        """Return when something has to be ended or tried again."""
        due = [at for at, _, _ in self._again]
        due += [until for until, _ in self._ending.values()]
        due += [attempt.ends_at for attempt in self._attempts.values() if attempt.ends_at is not None]
        return min(due, default=None)

    # --- commands ------------------------------------------------------------------------------

    def act(self, book: Book, commands: list[events.Command]) -> None:
        """Carry out the commands of the task machine, after the commit."""
        released: list[str] = []
        forgotten = False
        for command in commands:
            match command:
                case events.Kill(key=key):
                    self._kill(key)
                case events.Start(key=key):
                    row = book.tasks.get(key)
                    if row is not None and row.state == State.STARTING:
                        try:
                            self._start(row, root_of(book.tasks, row), book.ledger.gpus_of(row.job))
                        except (OSError, sqlite3.Error) as error:  # it costs the task, and not the node
                            self._report(_unstarted(row, self._number, error))
                case events.SendOutcome(key=key):
                    parent = self._attempts.get(key)
                    if parent is not None:
                        self._child_tasks.send_outcome(book, parent.children, command)
                case events.ReleaseSpool(key=key):
                    released.append(key)
                    self.wanted.release(key)
                    self.arrived.pop(key, None)
                case events.EndJob(job=job):
                    forgotten |= self.wanted.end_job(job)
                    self._context.workers.end_job(job)
                    self._context.transfers.end_job(job)
                    self._context.forget_soon()
        if released or forgotten:
            wanted = self.wanted.hashes
            self._context.attached.keep(wanted)
            if self._context.spool.has_kept(released, wanted):
                self._context.transfers.later(lambda: self._context.spool.tidy(released, wanted))
            self._context.point("released")

    def _start(self, row: TaskRow, root: TaskRow, gpus: tuple[int, ...]) -> None:
        """Begin to compute a task, or store what was computed before the daemon was killed."""
        context, permissions, key = self._context, self._context.permissions, row.key
        self._number += 1
        attempt = self._attempts[key] = TaskAttempt(self._number, sandbox=context.workers.sandbox, gpus=gpus)
        attempt.timing["queued"] = attempt.started - self.arrived.pop(key, attempt.started)
        if context.spool.has_result(key):
            permissions.accounts.note_leaving(key)
            _store(self._context, row, attempt)
            return
        if left := context.spool.take_left(key):
            attempt.folder, small = left
            self._report(WorkerReturned(key, attempt.number, small.result, small))
            return
        task = task_of(row)
        dataset = context.datasets.find(task.dataset) if task.dataset else None
        if dataset is None and task.dataset:
            self._report(Unprepared(key, attempt.number, "no_dataset", "the dataset was removed"))
            return
        if context.workers.sandbox == REFUSED:
            self._report(Unprepared(key, attempt.number, "sandbox", context.workers.support.advice))
            return
        attached, attempt.here = _objects_there(context, task)
        noise, refusal = _admitted(context, row, root, dataset, attempt.here)
        if refusal:
            self._report(Unprepared(key, attempt.number, *refusal))
            return
        rule = context.config.logs_mock if task.use == "mock" else context.config.logs_private
        forwarded = "none" if task.protect else permissions.limits_of(row).logs or rule
        if noise is None or task.use == "mock":  # that something was written at all may come from a record
            attempt.log = Forwarding(context.home, key, forwarded)
        context.workers.warm_up()
        attempt.folder = context.spool.begin(key)
        attempt.limit_s = min(task.limit_s or context.config.task_limit_s, context.config.task_limit_s)
        attempt.ends_at = time.monotonic() + START_WITHIN_S + attempt.limit_s
        text = None if task.plan is None else context.grants.texts.of(task.plan.sha256)
        known = context.ledger.known(task) if task.items.uses_ledger else None
        inputs = TaskInputs(
            row=row,
            run=attempt.number,
            task=task,
            dataset=dataset,
            plan=text,
            folder=attempt.folder,
            limits=_limits_of(context, row),
            known=known,
            noise=noise or {},
            attached=attached,
        )
        context.point("started")
        self._prepare(attempt, inputs)

    def _prepare(self, attempt: TaskAttempt, inputs: TaskInputs) -> None:
        """Get a task's inputs: at once where nothing is waited for, so that no thread and no further turn is."""
        transfers = self._context.transfers
        attempt.uncounted = True
        if not is_at_hand(inputs):
            transfers.prepare(inputs)
        elif isinstance(found := transfers.prepared(inputs), Prepared):
            self._work(attempt, found.order, inputs.row)
        else:
            self._report(found)

    # --- stages ------------------------------------------------------------------------------

    def take(self, turn: Turn, event: Stage) -> None:
        """Take a running task one stage further; reports of an attempt that has ended are ignored."""
        attempt, row = self._attempts.get(event.key), turn.book.tasks.get(event.key)
        if isinstance(event, WorkerGone):
            self._gone(turn, event.key)
            return
        if attempt is None or attempt.number != event.run or row is None:
            return
        key = event.key
        match event:
            case WorkerEmitted():
                if event.type not in OWN_EVENTS:
                    turn.after.append(lambda: self._hooks.event(row, event.type, event.data))
                    # what one node measures on the way is its contribution's part, and stays with it
                    if not task_of(row).protect and attempt.events.take(time.monotonic()):
                        turn.outgoing.append(_event(self._context, row, event.type, event.data))
            case Prepared(order=order):
                attempt.moved["fetch"] = time.monotonic() - attempt.started
                text = order.plan_text.encode()
                self._context.grants.texts.remember(hashlib.sha256(text).hexdigest(), text)
                turn.after.append(lambda: self._work(attempt, order, row))
            case WorkerUnclosed(detail=detail):
                self._fail(turn, key, attempt, "sandbox", f"its sandbox can't be closed: {detail}")
            case WorkerOverran(detail=detail):
                self._fail(turn, key, attempt, *_answered(self._context, row, "out_of_memory", detail))
            case Unprepared(reason=reason, detail=detail):
                self._fail(turn, key, attempt, reason, detail)
            case WorkerBegan(pid=pid):
                attempt.ends_at = time.monotonic() + attempt.limit_s
                _note_begun(self._context, turn, row)
                turn.step(events.Began(key, pid))
            case WorkerReturned(small=small):
                self._returned(turn, row, attempt, small)
            case ChildRequested(order=wanted):
                try:
                    self._child_tasks.launch(turn, row, attempt.children, wanted)
                except DecodeError as error:
                    words = _answered(self._context, row, "decode", str(error))
                    self._fail(turn, key, attempt, *words)
            case ChildAwaited(number=number):
                turn.step(events.Waits(key, attempt.children.get(number, "")))
            case Unstored(detail=detail):
                pause = RETRY_AFTER_S[min(attempt.stores, len(RETRY_AFTER_S) - 1)]
                attempt.stores += 1
                log.warning("a result waits for the repository: %s", detail, extra=log_fields(row))
                turn.after.append(lambda: self._again.append((time.monotonic() + pause, key, attempt)))
            case WorkerDied(detail=detail):
                _report_log(self._context, turn, row, attempt, final=True)
                _count_fetched(self._context, turn, row, attempt)
                turn.after.append(lambda: self._end(key, attempt))
                reason, detail = _answered(self._context, row, "worker_died", detail)
                turn.step(events.Died(key, detail, reason))
            case StoredResult():
                if attempt.returned and not attempt.stores:
                    attempt.moved["store"] = time.monotonic() - attempt.returned
                    # private work tells no seconds after its beginning
                    if not task_of(row).protect.get("dp"):
                        attempt.timing["store"] = attempt.moved["store"]
                turn.after.append(lambda: self._forget(key, attempt))
                self._finish(turn, row, event, attempt)

    def _fail(self, turn: Turn, key: str, attempt: TaskAttempt, reason: str, detail: str) -> None:
        _count_fetched(self._context, turn, turn.book.tasks.get(key), attempt, fetches=False)
        turn.after.append(lambda: self._end(key, attempt))
        turn.step(events.Finished(key, False, b"", reason, detail))

    def report_logs(self, turn: Turn) -> None:
        """Send to researchers, every `LOGS_EVERY_S` at most, what their running tasks wrote and they may see."""
        now = time.monotonic()
        if now - self._logs_read >= LOGS_EVERY_S:
            self._logs_read = now
            for key, attempt in self._attempts.items():
                row = turn.book.tasks.get(key)
                if row is not None:
                    _report_log(self._context, turn, row, attempt)

    def _work(self, attempt: TaskAttempt, order: WorkOrder, row: TaskRow) -> None:
        if self._attempts.get(order.key) is attempt:
            share = self._context.config.gpu_share if attempt.gpus else 0.0
            order = replace(order, secrets=self._context.permissions.secrets_of(row), gpu_share=share)
            attempt.timing["fetch"] = time.monotonic() - attempt.started
            try:
                identity = _identity_of(self._context, row, attempt, order)
                # a secure sum, a charge and a parent ask after the output of their tasks
                takes_small = not (task_of(row).protect or row.parent)
                began = self._context.workers.run(
                    *(order, attempt.number, identity), resources=row.resources, takes_small=takes_small
                )
                if began is not None:
                    (self._report_soon if takes_small else self._report)(began)
            except Exception as error:  # a launcher is somebody else's code
                log.exception("a worker could not be started", extra=log_fields(row))
                words = failure_words(error) if is_full(error) else ("launcher", type(error).__name__)
                self._report(Unprepared(order.key, attempt.number, *words))

    def _returned(self, turn: Turn, row: TaskRow, attempt: TaskAttempt, small: SmallOutput | None) -> None:
        """Store what a worker gave; what fits into the answer is durable with the commit that ends the task."""
        context, folder, key = self._context, attempt.folder, row.key
        context.point("returned")
        attempt.ends_at, attempt.returned = None, time.monotonic()
        if small is None:
            context.permissions.accounts.note_leaving(key)
            turn.after.append(lambda: _store(self._context, row, attempt))
            return
        min_rows = context.permissions.limits_of(row).min_rows
        turn.after.append(lambda: self._forget(key, attempt))
        if folder is not None:
            turn.after.append(lambda: context.spool.discard_small(folder))
        self._finish(turn, row, store_small(row, attempt.number, small, min_rows, context.config), attempt)

    def _finish(self, turn: Turn, row: TaskRow, stored: StoredResult, attempt: TaskAttempt) -> None:
        turn.keep(vars(attempt))  # where the commit fails, it is uncounted again
        attempt.uncounted = False
        charge = self._context.permissions.charge(
            row, stored.result, turn.predicted, attempt.started, moved=attempt.moved, here=attempt.here
        )
        turn.charge(charge)
        timing = {**charge.result.timing, **attempt.timing}
        result = replace(charge.result, timing=timing, sandbox=attempt.sandbox)
        if protect := task_of(row).protect:
            result = replace(concealed(result, protect), privacy=self._context.permissions.spent_by(row))
            result = self._sums.with_keys(turn, row, result)
        if not (result.ok or stored.left):
            turn.rows.append(lambda: self._context.permissions.accounts.settle(row.key, left=False))
        _log_words(self._context, row, stored, result.reason)
        _report_log(self._context, turn, row, attempt, final=True)
        if has_log(self._context.home, row.key):
            self._context.transfers.later(lambda: close_log(self._context.home, row.key))
        if result.ok and stored.state:
            origin = origin_of(task_of(row))
            turn.rows.append(lambda: self._context.tasks.add_state(row.job, stored.state, row.round, origin))
        if (result.ok or result.used) and stored.items is not None:
            items = stored.items
            turn.rows.append(lambda: self._context.ledger.note(task_of(row), items))
        if not result.ok:  # the row says it all; what lies in the spool would stand in a retry's way
            turn.after.append(lambda: self._context.transfers.release(row.key))
        elif stored.attached:
            self.wanted.answer(row.key, stored.attached)
            turn.rows.append(lambda: self._context.attached.add(stored.attached))
        packed = packed_result(result)
        turn.step(events.Finished(row.key, result.ok, packed, result.reason, result.detail))

    # --- ends ------------------------------------------------------------------------------

    def end_overdue(self, turn: Turn) -> None:
        """End attempts that are over their limit; try again to store what waits for that."""
        now = time.monotonic()
        for key, attempt in list(self._attempts.items()):
            if attempt.ends_at is not None and attempt.ends_at <= now:
                if (late := turn.book.tasks.get(key)) is not None:
                    reason, detail = _answered(
                        self._context, late, "timeout", "the work took longer than its limit"
                    )
                    _count_fetched(self._context, turn, late, attempt)
                    turn.step(events.Overdue(key, detail, reason))
                else:
                    attempt.ends_at = None
        for key in [key for key, (until, _) in self._ending.items() if until <= now]:
            text = "the worker of task %s is still there %g s after it was killed"
            log.error(text, key[:12], GONE_WITHIN_S, extra={"task": key})
            self._gone(turn, key)
        due = [entry for entry in self._again if entry[0] <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for _, key, attempt in due:
            row = turn.book.tasks.get(key)
            if row is not None and self._attempts.get(key) is attempt:
                _store(self._context, row, attempt)

    def _kill(self, key: str) -> None:
        """End a task's worker, and hear when nothing is left of it."""
        self._ending[key] = (time.monotonic() + GONE_WITHIN_S, self._attempts.get(key))
        if not self._end(key):
            self._report(WorkerGone(key, 0))

    def _gone(self, turn: Turn, key: str) -> None:
        turn.keep(self._ending)
        _, attempt = self._ending.pop(key, (0.0, None))
        row = turn.book.tasks.get(key)
        if row is not None and attempt is not None:
            _report_log(self._context, turn, row, attempt, final=True)
            _count_fetched(self._context, turn, row, attempt)
        turn.step(events.Gone(key))

    def _end(self, key: str, attempt: TaskAttempt | None = None) -> bool:
        """Stop computing a task, wherever it is; tell whether a worker has to end first."""
        found = attempt or self._attempts.get(key)
        if found is None:
            return False
        is_killed = False
        if self._attempts.get(key) is found:
            del self._attempts[key]
            is_killed = self._context.workers.kill(key)
        folder = found.folder
        if folder is not None:
            self._context.transfers.later(lambda: self._context.spool.discard(folder))
        return is_killed

    def _forget(self, key: str, attempt: TaskAttempt) -> None:
        if self._attempts.get(key) is attempt:
            del self._attempts[key]


def _count_fetched(
    context: NodeContext, turn: Turn, row: TaskRow | None, attempt: TaskAttempt, *, fetches: bool = True
) -> None:
    """Count what an attempt fetches that ends without a result.

    Args:
        fetches: a thread may still be at it, and ends what it has begun; else what is not here has not come.
    """
    if row is not None and attempt.uncounted:
        turn.keep(vars(attempt))
        attempt.uncounted = False
        nothing = Result(of="", key=row.key, ok=False)
        came = None if fetches or "fetch" in attempt.timing else partial(context.transfers.has, row.job)
        turn.charge(
            context.permissions.charge(row, nothing, {}, attempt.started, here=attempt.here, came=came)
        )


def _store(context: NodeContext, row: TaskRow, attempt: TaskAttempt) -> None:
    folder = None if context.spool.has_result(row.key) else attempt.folder
    context.transfers.store(row, attempt.number, folder, min_rows=context.permissions.limits_of(row).min_rows)


def _unstarted(row: TaskRow, number: int, error: Exception) -> Unprepared:
    """Log why a task could not be started, such as a full disk, and return its end."""
    log.error("a task could not be started: %s", error, extra=log_fields(row))
    return Unprepared(row.key, number, *failure_words(error))


def _identity_of(
    context: NodeContext, row: TaskRow, attempt: TaskAttempt, order: WorkOrder
) -> WorkerIdentity:
    """Return what a task's worker is for: another grant, plan, dataset or use has another worker."""
    task = task_of(row)
    dataset = context.datasets.find(task.dataset) if task.dataset else None
    brought = "" if task.files is None else task.files.sha256
    return WorkerIdentity(
        job=row.job,
        grant=context.grants.usage.bound(row.key) or "",
        plan="" if task.plan is None else task.plan.sha256,
        dataset=task.dataset or brought,
        version="" if dataset is None else context.versions.of_parts(dataset.parts(task.use)),
        use=task.use,
        gpus=attempt.gpus,
        models=tuple(sorted(file.path for file in order.models.values())),
        origin=origin_of(task),
    )


def _limits_of(context: NodeContext, row: TaskRow) -> dict[str, Any]:
    """Return the limits that a worker holds its task to, by name."""
    own = matches_any(context.config.own_of, row.researcher)
    limits: dict[str, Any] = {**context.permissions.limits_of(row).to_plain(), "own": own}
    if (left := context.permissions.inferences_left(row)) is not None:
        limits[LEFT] = left
    return limits


def _admitted(
    context: NodeContext, row: TaskRow, root: TaskRow, dataset: RegisteredDataset | None, here: frozenset[str]
) -> tuple[Mapping[str, Any] | None, tuple[str, str] | None]:
    """Decide whether a task may begin, and charge for a private one; return what `_charged` does.

    Args:
        here: hashes of its objects that it does not fetch.
    """
    permissions = context.permissions
    refusal = (
        permissions.may_start(row, root) or permissions.used_up(row, here) or _state_refusal(context, row)
    )
    return (None, refusal) if refusal else _charged(context, row, dataset)


def _charged(
    context: NodeContext, row: TaskRow, dataset: RegisteredDataset | None
) -> tuple[Mapping[str, Any] | None, tuple[str, str] | None]:
    """Charge for a private task, which is committed before anything of it begins.

    Returns:
        What it is computed by, None without differential privacy; and why it may not be, None where it may.
    """
    permissions = context.permissions
    try:
        private = permissions.private_work_of(row)
    except SpecError as error:
        return None, ("privacy", str(error))
    if private is None:
        return None, None
    version = "" if dataset is None else context.versions.of_parts(dataset.parts(task_of(row).use))
    if unpaid := permissions.pay(row, private, version):
        return None, ("budget", unpaid)
    context.point("charged")
    return permissions.noise_of(row, private), None


def _note_begun(context: NodeContext, turn: Turn, row: TaskRow) -> None:
    """Note in the ledger that a worker begins on a private task: however that ends, it is paid for."""
    if task_of(row).protect.get("dp"):
        turn.rows.append(lambda: context.permissions.accounts.note_begun(row.key))


def _objects_there(context: NodeContext, task: Task) -> tuple[dict[str, bytes], frozenset[str]]:
    """Return the objects that came with a task, and the hashes of those that an earlier one has fetched."""
    named = objects_of(task)
    attached = context.attached.of(named)
    return attached, context.spool.here(named - attached.keys())


def _state_refusal(context: NodeContext, row: TaskRow) -> tuple[str, str] | None:
    """Say why a task may not start from the node state that it names; None where it may, or where there is none."""
    task = task_of(row)
    if task.state is None:
        return None
    made_of = context.tasks.origin_of_state(row.job, task.state)
    if made_of is None:
        return "state_missing", f"there is no node state {task.state[:64]!r}"
    if made_of == origin_of(task):
        return None
    return "not_permitted", (
        f"the node state {task.state[:64]!r} is of {made_of}, and this task is of {origin_of(task)}: a state goes to tasks of "
        "the same data under the same protection alone"
    )


def _event(context: NodeContext, row: TaskRow, type_: str, data: dict[str, Any]) -> Outgoing:
    """Encode an event about a task for who asked for it."""
    return context.endpoint.prepare(
        parse_address(row.reply_to), Event(type=type_, data=data), **header_of(row)
    )


def _report_log(
    context: NodeContext, turn: Turn, row: TaskRow, attempt: TaskAttempt, *, final: bool = False
) -> None:
    for data in _log_reports(context, attempt, final=final):
        turn.outgoing.append(_event(context, row, "log", data))


def _log_reports(context: NodeContext, attempt: TaskAttempt, *, final: bool) -> list[dict[str, Any]]:
    """Return what is to be reported of a task's output; with `final`, for the last time."""
    if attempt.log is None:
        return []
    reports = list(attempt.log.events(final=final))
    if final and attempt.log.withholds():
        reports.append({"withheld": True, "contact": contacts_text(context.config.contacts)})
    if final:
        attempt.log = None
    return reports


def _log_words(context: NodeContext, row: TaskRow, stored: StoredResult, reason: str) -> None:
    """Write into the task's log why it failed, and which items did; into the node's, that it failed."""
    if stored.trace or stored.message:
        # the plan's own words stay in the task's log: they may hold values, and this log may be sent away
        what = f"task {row.key[:12]} of job {row.job}, round {row.round}"
        extra = log_fields(row, reason)
        log.warning("%s, failed: %s; see fedjob node logs %s", what, reason, row.key[:12], extra=extra)
        add_trace(context.home, row.key, stored.trace or stored.message)
    if stored.report:
        add_trace(context.home, row.key, stored.report)


def _answered(context: NodeContext, row: TaskRow, reason: str, detail: str) -> tuple[str, str]:
    """Return how a worker's end is answered; where that is withheld, the task's log has it."""
    found = withheld(row, reason, detail)
    if found != (reason, detail):
        add_trace(context.home, row.key, f"{reason}: {detail}")
    return found
