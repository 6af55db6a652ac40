"""The handler of task messages and of ends of jobs, which become entries of the node's book."""

from __future__ import annotations

import time
from dataclasses import replace

from fedjob.common.checks import is_number
from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.requirements import read_need
from fedjob.common.types import check_job_id
from fedjob.messaging.messages import End, Message, Offer, Task, work_key
from fedjob.messaging.token_bucket import TokenBucket
from fedjob.node.daemon.attempts import Attempts
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.sums import SumHandler
from fedjob.node.daemon.turn import Turn
from fedjob.node.execution.preload import lacking_libraries
from fedjob.node.execution.transfers import ContributionRead, Ensured, PartsFetched, VectorStored
from fedjob.node.execution.worker_place import WorkerIdentity
from fedjob.node.grants.policy import Permission
from fedjob.node.queue import task_events as events
from fedjob.node.queue.allocation import granted, need_of
from fedjob.node.queue.draft import reply_id
from fedjob.node.queue.task import order_of, task_of

MAX_REFUSED = 1000
"""Refusals that are remembered as audited."""

MAX_ENSURED = 100
"""Old results that are looked after at once; of more it is taken that they are still there."""

AUDITED_PER_S, AUDITED_AT_ONCE = 0.1, 200.0
"""Refusals of one researcher's tasks that are audited: a few for each of any number of jobs fill a disk as well."""


class TaskHandler:
    """Accepts tasks that may run, refuses the others, ends jobs."""

    def __init__(self, context: NodeContext, attempts: Attempts, sums: SumHandler) -> None:
        self._context = context
        self.sums = sums
        self._attempts = attempts
        self._refused: dict[tuple[str, str], None] = {}  # by job and reason, what was audited
        self._buckets: dict[str, TokenBucket] = {}  # by researcher, how many refusals may be audited
        self._ensured: dict[str, Message] = {}  # by message id, while the old result is looked after

    def handle_task(self, turn: Turn, message: Message, task: Task, *, ensured: bool = False) -> None:
        """Accept a task, refuse it, or answer it with what was computed before.

        Args:
            ensured: what an old result refers to is known to be in the repository.
        """
        arrived = self._arrived(message, task)
        known = turn.book.tasks.get(arrived.key)
        verdict = self._context.permissions.judge(message, task_of(arrived))
        if refusal := self._refusal(turn, message, task, verdict, is_new=known is None and not task.sum):
            self._refuse(turn, message, arrived, refusal)
            return
        wait = known is not None and known.state == State.COMPLETED and not ensured
        if known is not None and wait and len(self._ensured) < MAX_ENSURED:
            # asked again, maybe after a long time: first see that what the answer refers to is still there
            turn.keep(self._ensured)
            self._ensured[message.id] = message
            turn.after.append(lambda: self._context.transfers.ensure(known, message.id))
            return
        if task.sum:
            self.sums.handle(turn, message, task, verdict)
            return
        arrived = replace(arrived, resources=granted(task.resources, verdict.gpus))
        if grant := verdict.grant:
            arrived = replace(arrived, job_name=grant.asked.job_name)
            turn.rows.append(lambda: self._context.grants.usage.bind(arrived.key, grant.id))
        commands = turn.step(arrived)
        if any(isinstance(command, events.PutTask) for command in commands):
            self._attempts.wanted.add(arrived.key, message.job, task)
            if task.attached:
                turn.rows.append(lambda: self._context.attached.add(task.attached))
            self._attempts.arrived.setdefault(arrived.key, time.monotonic())
            if task.keep_states is not None:
                keep = {*task.keep_states, task.state or ""}
                self._context.drop_states(turn, message.job, keep, message.round)
        turn.settled.append(message)

    def has(self, turn: Turn, message: Message, wanted: Offer | Task) -> bool:
        """Return whether a message repeats a task that was taken before."""
        return isinstance(wanted, Task) and self._key_of(message, wanted) in turn.book.tasks

    def refuse(self, turn: Turn, message: Message, task: Task, reason: str, detail: str) -> None:
        """Refuse a task without judging it."""
        self._refuse(turn, message, self._arrived(message, task), (reason, detail))

    def _refuse(
        self, turn: Turn, message: Message, arrived: events.TaskArrived, refusal: tuple[str, str]
    ) -> None:
        self._record_refusal(turn, arrived, refusal)
        reply = reply_id(arrived.key, arrived.message)
        turn.commands.append(events.Refuse(arrived, *refusal, reply))
        turn.settled.append(message)

    def stop_forbidden(self, turn: Turn) -> None:
        """End what may not run any more, because its grant was revoked or has expired."""
        for row in turn.book.unfinished():
            verdict = self._context.permissions.judge_row(row)
            if verdict.status == "rejected" or verdict.state == "expired":
                turn.step(events.Cancel(row.key, *verdict.refusal))

    def end_forbidden_workers(self) -> None:
        """End the idle workers whose grant was revoked or has expired, or whose dataset is not what it was."""
        context = self._context

        def may_stay(identity: WorkerIdentity) -> bool:
            try:
                if identity.grant and context.grants.get(identity.grant).status != "granted":
                    return False
            except FedjobError:  # it was forgotten
                return False
            dataset = context.datasets.find(identity.dataset) if identity.version else None
            return not identity.version or (
                dataset is not None
                and context.versions.of_parts(dataset.parts(identity.use)) == identity.version
            )

        context.workers.end_idle(may_stay)

    def _record_refusal(self, turn: Turn, task: events.TaskArrived, refusal: tuple[str, str]) -> None:
        """Audit that a task was refused: once for a job and reason, so that nobody can fill the disk with it."""
        if (task.job, refusal[0]) in self._refused:
            return
        while len(self._refused) >= MAX_REFUSED:
            self._refused.pop(next(iter(self._refused)))
        self._refused[task.job, refusal[0]] = None
        if not self._audited(task.researcher):
            return
        body = {
            "job": task.job,
            "researcher": task.researcher,
            "dataset": task.dataset,
            "round": task.round,
            "step": task.step,
            "state": "rejected",
            "reason": refusal[0],
        }
        turn.rows.append(lambda: self._context.grants.audit.add("task", task.key, body))

    def _audited(self, researcher: str) -> bool:
        now = time.monotonic()
        bucket = self._buckets.get(researcher)
        if bucket is None:
            while len(self._buckets) >= MAX_REFUSED:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = TokenBucket(AUDITED_PER_S, AUDITED_AT_ONCE, AUDITED_AT_ONCE, now)
            self._buckets[researcher] = bucket
        return bucket.take(now)

    def take(self, turn: Turn, report: Ensured | VectorStored | ContributionRead | PartsFetched) -> None:
        """Take what a thread did for a task: it looked after an old result, or did what a step of a secure sum needs."""
        if isinstance(report, PartsFetched):
            if (whole := self.sums.whole(turn, report)) is not None:
                self.handle_task(turn, *whole)
            return
        if isinstance(report, ContributionRead):
            self.sums.bind(turn, report)
            return
        if isinstance(report, VectorStored):
            self.sums.take(turn, report)
            return
        turn.keep(self._ensured)
        message = self._ensured.pop(report.message, None)
        if message is not None and isinstance(message.body, Task):
            self.handle_task(turn, message, message.body, ensured=True)

    def handle_end(self, turn: Turn, message: Message, end: End) -> None:
        """End a job: its work, its spool, its node states but those that a breakpoint names."""
        check_job_id(message.job)
        commands = turn.step(events.EndArrived(message.job, message.sender, message.epoch, end.outcome))
        if any(isinstance(command, events.EndJob) for command in commands):
            if end.keep_states is not None:
                self._context.drop_states(turn, message.job, end.keep_states)
            turn.rows.append(lambda: self._context.grants.waiting.forget_job(message.job))
            self.sums.end_job(turn, message.job)
        turn.settled.append(message)

    def _key_of(self, message: Message, task: Task) -> str:
        check_job_id(message.job)
        return work_key(
            job=message.job, round_=message.round, step=message.step, node=self._context.node, task=task
        )

    def _arrived(self, message: Message, task: Task) -> events.TaskArrived:
        return events.TaskArrived(
            key=self._key_of(message, task),
            job=message.job,
            researcher=message.sender,
            dataset=task.dataset,
            round=message.round,
            step=message.step,
            epoch=message.epoch,
            attempt=message.attempt,
            reply_to=message.reply_to,
            message=message.id,
            order=order_of(task),
            resources=task.resources,
            project=task.project,
            researcher_key=message.sender_key,
        )

    def _refusal(
        self, turn: Turn, message: Message, task: Task, verdict: Permission, *, is_new: bool
    ) -> tuple[str, str] | None:
        """Return reason and detail if a task may not run."""
        if not verdict.allowed:
            return verdict.refusal
        if lacking := lacking_libraries(self._context.config.launcher):
            return "missing_packages", lacking
        if task.state is not None and not _is_state_id(task.state):
            return "state_missing", "no node state is named so"
        if task.limit_s is not None and not (is_number(task.limit_s) and task.limit_s > 0):
            return "spec", f"limit_s is a finite number of seconds above 0, found {task.limit_s}"
        try:
            read_need(task.resources)
            short = turn.book.ledger.never(need_of(granted(task.resources, verdict.gpus)))
        except SpecError as error:
            return "spec", str(error)[:1000]
        if short:
            return "resources", f"this node never has so much to spare: {', '.join(short)}"
        if not is_new:
            return None
        config = self._context.config
        unfinished = turn.book.unfinished()
        if len(unfinished) >= config.max_tasks:
            return "busy", f"this node has {len(unfinished)} open tasks"
        num_own = sum(row.researcher == message.sender for row in unfinished)
        if num_own >= config.max_tasks_per_researcher:
            return "busy", f"{message.sender} has {num_own} open tasks here"
        return None


def _is_state_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
