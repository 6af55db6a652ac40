"""The translation of a turn's commands into database rows and outgoing messages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import replace

from fedjob.common.errors import EncodeError
from fedjob.common.lifecycle import State
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Event, Result, named_params
from fedjob.messaging.outbox import Outgoing
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.store import TaskStore
from fedjob.node.queue.task import header_of, refused, unpacked_result
from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.outbox import Forgettable
from fedjob.node.storage.spool import Spool

log = logging.getLogger(__name__)


def put_rows(tasks: TaskStore, commands: Iterable[events.Command]) -> None:
    """Write the rows that commands name; of several for one task the last counts."""
    last: dict[str, events.PutTask | events.DeleteTask] = {}
    for command in commands:
        match command:
            case events.PutTask(row=row):
                last[row.key] = command
            case events.DeleteTask():
                last[command.key] = command
            case events.PutJob(row=job):
                tasks.put_job(job)
            case events.DeleteJob(job=name):
                tasks.delete_job(name)
    for change in last.values():
        if isinstance(change, events.PutTask):
            tasks.put_task(change.row)
        else:
            tasks.delete_task(change.row)


def settle_charges(accounts: PrivacyAccounts, spool: Spool, commands: Iterable[events.Command]) -> None:
    """End the charges of private tasks that have ended: spent, unless nothing of them can have left the node."""
    last = {
        command.row.key: command.row
        for command in commands
        if isinstance(command, (events.PutTask, events.DeleteTask))
    }
    for row in last.values():
        if row.finished:
            is_out = row.state == State.COMPLETED or accounts.is_leaving(row.key)
            accounts.settle(row.key, left=is_out or spool.has_result(row.key))


def dropped_replies(turn: Turn, forgettable: Forgettable) -> tuple[list[str], set[str]]:
    """Return the replies that are no longer sent, and those among them that are forgotten because of too many."""
    withdrawn = [command.reply for command in turn.commands if isinstance(command, events.Unreply)]
    refused = [command.reply for command in turn.commands if isinstance(command, events.Refuse)]
    forgotten = set(forgettable.add([*refused, *turn.forgettable]))
    return [*withdrawn, *forgotten], forgotten


def reply_ids(commands: Iterable[events.Command]) -> set[str]:
    """Return the ids of the answers to tasks that `encode_replies` would return."""
    ids: set[str] = set()
    for command in commands:
        match command:
            case events.SendReply() | events.Refuse():
                ids.add(command.reply)
            case events.Unreply(reply=gone):
                ids.discard(gone)
    return ids


def encode_replies(context: NodeContext, commands: Iterable[events.Command]) -> list[Outgoing]:
    """Encode the answers to tasks; of several to one message the last counts.

    Those that name no sandbox get the kind that is in force; the parameters that are attached to them are read from the
    database.
    """
    endpoint = context.endpoint
    last: dict[str, Outgoing] = {}
    for command in commands:
        match command:
            case events.SendReply(row=row):
                last[command.reply] = _reply(context, row, command.reply)
            case events.Refuse(task=task, reason=reason, detail=detail, reply=reply):
                last[reply] = endpoint.prepare(
                    parse_address(task.reply_to),
                    replace(refused(task.key, task.message, reason, detail), sandbox=context.workers.sandbox),
                    job=task.job,
                    task=task.key,
                    round=task.round,
                    step=task.step,
                    attempt=task.attempt,
                    epoch=task.epoch,
                    id=reply,
                )
            case events.Unreply(reply=gone):
                last.pop(gone, None)
    return list(last.values())


def _reply(context: NodeContext, row: TaskRow, reply: str) -> Outgoing:
    to, header, endpoint = parse_address(row.reply_to), header_of(row), context.endpoint
    result = with_attached(unpacked_result(row), context.attached)
    sandbox = result.sandbox or context.workers.sandbox
    try:
        return endpoint.prepare(to, replace(result, sandbox=sandbox), **header, id=reply)
    except EncodeError as error:
        short = replace(refused(row.key, row.message, "too_large", str(error)), sandbox=sandbox)
        return endpoint.prepare(to, short, **header, id=reply)


def with_attached(result: Result, attached: AttachedParams) -> Result:
    """Return a result with the bytes of what is attached to it, which a row only names.

    What was lost or is damaged is left out: the researcher does not find it in the repository either, and says so.
    """
    if not result.attached:
        return result
    found = attached.of(named_params(result).keys() & result.attached.keys())
    whole = {name: each for name, each in found.items() if hashlib.sha256(each).hexdigest() == name}
    return replace(result, attached=whole)


def encode_states(endpoint: Endpoint, rows: Iterable[TaskRow]) -> list[Outgoing]:
    """Encode the events by which researchers learn of their tasks' states."""
    messages = []
    for row in rows:
        data = {"state": str(row.state), "worker": row.worker, "reason": row.reason}
        if row.parent:
            data["parent"] = row.parent
        to = parse_address(row.reply_to)
        messages.append(endpoint.prepare(to, Event(type="state", data=data), **header_of(row)))
    return messages


def log_fields(row: TaskRow, reason: str = "") -> dict[str, str | int]:
    """Return the fields of a line of the log that is about a task."""
    return {"job": row.job, "task": row.key, "round": row.round, "reason": reason or row.reason}


def log_ends(rows: Iterable[TaskRow]) -> None:
    """Write a line of the log for each task that has ended."""
    for row in rows:
        if row.finished:
            log.info("task %s of job %s is %s", row.key[:12], row.job, row.state, extra=log_fields(row))


def must_last(command: events.Command) -> bool:
    """True if losing this command's row to a power cut would cost more than a resend."""
    if isinstance(command, events.PutTask):  # a task that was running begins again, as one that starts
        return not command.row.acknowledged and command.row.state != State.RUNNING
    return isinstance(command, (events.PutJob, events.DeleteTask))
