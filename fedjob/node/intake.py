"""Tasks and ends of jobs, on their way from a message into the book."""

from __future__ import annotations

import time
from collections.abc import Callable

from fedjob.common.codec import pack, to_plain
from fedjob.common.messages import End, Message, Task, work_key
from fedjob.common.types import check_job_id
from fedjob.node import taskkeeping as keeping
from fedjob.node.attempts import Attempts
from fedjob.node.parts import Parts, Turn, objects_of


class Intake:
    """Accepts tasks that may run, refuses the others, ends jobs."""

    def __init__(self, parts: Parts, attempts: Attempts) -> None:
        self._parts = parts
        self._attempts = attempts
        self._ensured: dict[str, Message] = {}  # by message id, while the old result is looked after

    def handle_task(self, turn: Turn, message: Message, task: Task, *, ensured: bool = False) -> None:
        """Accept a task, refuse it, or answer it with what was computed before.

        Args:
            ensured: what an old result refers to is known to be in the repository.
        """
        arrived = self._arrived(message, task)
        known = turn.book.tasks.get(arrived.key)
        if refusal := self._refusal(turn, message, task, is_new=known is None):
            reply = keeping.reply_id(arrived.key, arrived.message)
            turn.commands.append(keeping.Refuse(arrived, *refusal, reply))
            turn.settled.append(message)
            return
        if known is not None and known.status == "done" and not ensured:
            # asked again, maybe after a long time: first see that what the answer refers to is still there
            self._ensured[message.id] = message
            turn.after.append(lambda: self._parts.runs.ensure(known, message.id))
            return
        commands = turn.step(arrived)
        if any(isinstance(command, keeping.PutTask) for command in commands):
            self._attempts.wants[arrived.key] = objects_of(task)
            self._attempts.arrived.setdefault(arrived.key, time.monotonic())
            if task.keep_states is not None:
                keep = {*task.keep_states, task.state or ""}
                self._parts.drop_states(turn, message.job, keep, message.round)
        turn.settled.append(message)

    def take_ensured(self, turn: Turn, message_id: str) -> None:
        """Go on with a task whose old result was looked after."""
        message = self._ensured.pop(message_id, None)
        if message is not None and isinstance(message.body, Task):
            self.handle_task(turn, message, message.body, ensured=True)

    def handle_end(self, turn: Turn, message: Message, end: End) -> None:
        """End a job: its work, its spool, its node states but those that a breakpoint names."""
        check_job_id(message.job)
        commands = turn.step(
            keeping.EndArrived(job=message.job, researcher=message.sender, epoch=message.epoch)
        )
        if any(isinstance(command, keeping.EndJob) for command in commands):
            self._parts.drop_states(turn, message.job, end.keep_states)
            turn.rows.append(lambda: self._parts.grants.forget_job(message.job))
        turn.settled.append(message)

    def snapshot(self) -> Callable[[], None]:
        """Return what brings back the tasks that wait now, should the turn fail."""
        held = dict(self._ensured)

        def restore() -> None:
            self._ensured = held

        return restore

    def _arrived(self, message: Message, task: Task) -> keeping.TaskArrived:
        check_job_id(message.job)
        key = work_key(
            job=message.job, round_=message.round, step=message.step, node=self._parts.node, task=task
        )
        return keeping.TaskArrived(
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

    def _refusal(self, turn: Turn, message: Message, task: Task, *, is_new: bool) -> tuple[str, str] | None:
        """Return reason and detail if a task may not run."""
        verdict = self._parts.judge(message, task)
        if verdict.status in ("pending", "rejected"):
            return "plan_not_approved", verdict.detail
        if not verdict.allowed:
            return verdict.reason, verdict.detail
        if task.state is not None and not _is_state_id(task.state):
            return "state_missing", "no node state is named so"
        if not is_new:
            return None
        config = self._parts.config
        unfinished = turn.book.unfinished()
        if len(unfinished) >= config.max_tasks:
            return "busy", f"this node has {len(unfinished)} open tasks"
        num_own = sum(row.researcher == message.sender for row in unfinished)
        if num_own >= config.max_tasks_per_researcher:
            return "busy", f"{message.sender} has {num_own} open tasks here"
        return None


def _is_state_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
