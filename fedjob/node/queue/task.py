"""The contents of a task's row: the task that was asked for, the header of messages about it, its answer."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import FedjobError, NoSpace
from fedjob.common.files import FULL
from fedjob.messaging.messages import Result, Task
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task_events import TaskArrived
from fedjob.node.storage.spool import Spool

NODE_FULL = "no space is left on the node's disk: ask its owner to free some, then run again"
HUB_FULL = "no space is left on the hub's disk: ask its operator to free some, then run again"

INPUTS = "inputs"
"""Value of a child's task: argument -> key of the sibling whose value it takes."""


def header_of(row: TaskRow) -> dict[str, Any]:
    """Return the header of what is sent about a task."""
    return {
        "job": row.job,
        "task": row.key,
        "round": row.round,
        "step": row.step,
        "attempt": row.attempt,
        "epoch": row.epoch,
    }


MAX_READ = 64
"""Tasks that are kept as they were read, so that none is read again at each of its stages."""


class ReadTasks:
    """The tasks that were read last, by the bytes that are kept of each; for any thread.

    Args:
        most: that are kept; of more, the longest unused is read again.
    """

    def __init__(self, most: int = MAX_READ) -> None:
        self._most = most
        self._lock = Lock()
        self._tasks: OrderedDict[bytes, Task] = OrderedDict()

    def keep(self, order: bytes, task: Task) -> Task:
        """Keep a task that these bytes are of, and return it."""
        with self._lock:
            self._tasks[order] = task
            self._tasks.move_to_end(order)
            if len(self._tasks) > self._most:
                self._tasks.popitem(last=False)
        return task

    def of(self, order: bytes) -> Task:
        """Return the task that these bytes are of."""
        with self._lock:
            known = self._tasks.get(order)
            if known is not None:
                self._tasks.move_to_end(order)
                return known
        return self.keep(order, from_plain(Task, unpack(order)))


_READ = ReadTasks()


def order_of(task: Task) -> bytes:
    """Return what is kept of a task in its row: all but what came attached to it."""
    kept = replace(task, attached={})
    order = pack(to_plain(kept))
    _READ.keep(order, kept)
    return order


def task_of(row: TaskRow | TaskArrived) -> Task:
    """Return the body of the message that asked for a task; nobody may change what is in it."""
    return _READ.of(row.order)


def objects_of(task: Task) -> set[str]:
    """Return the hashes of the objects that a task is computed from."""
    refs = (*task.params.values(), *task.blobs.values(), *task.artifacts.values())
    return {ref.sha256 for ref in refs}


class WantedObjects:
    """The objects that have to stay in the spool: those of each task, and for a whole job what each task of it wants.

    The latter are the files that a job sends along, such as the frozen part of its model.
    """

    def __init__(self) -> None:
        self._of_tasks: dict[str, set[str]] = {}
        self._of_jobs: dict[str, set[str]] = {}

    @property
    def hashes(self) -> set[str]:
        """The sha256 of all of them."""
        return set().union(*self._of_tasks.values(), *self._of_jobs.values())

    def add(self, key: str, job: str, task: Task) -> None:
        """Keep what a task is computed from."""
        self._of_tasks[key] = objects_of(task)
        if task.artifacts:
            along = {ref.sha256 for ref in task.artifacts.values()}
            self._of_jobs.setdefault(job, set()).update(along)

    def answer(self, key: str, attached: Iterable[str]) -> None:
        """Keep what is attached to a task's answer as long as what it was computed from."""
        self._of_tasks.setdefault(key, set()).update(attached)

    def release(self, key: str) -> None:
        """Keep what a task is computed from no longer, beside that of its job."""
        self._of_tasks.pop(key, None)

    def end_job(self, job: str) -> bool:
        """Keep nothing of a job any more; return whether there was anything."""
        return self._of_jobs.pop(job, None) is not None


def inputs_of(task: Task, spool: Spool) -> dict[str, Any]:
    """Return the arguments that a child takes from its siblings' values.

    Raises:
        DecodeError: one of them is damaged.
    """
    named = task.values.get(INPUTS) or {}
    return {name: spool.result(key).value for name, key in named.items()}


def packed_result(result: Result) -> bytes:
    """Return a result as it is kept in the task's row; `of` is filled in when it is sent."""
    return pack(to_plain(result))


def unpacked_result(row: TaskRow) -> Result:
    """Return what a finished task is answered with."""
    if row.result:
        return replace(from_plain(Result, unpack(row.result)), of=row.message)
    return replace(failure(row.key, row.reason or "error", row.detail), of=row.message)


def origin_of(task: Task) -> str:
    """Return of which data, and under which protection, a task makes a node state, in words.

    A state goes to tasks of the same origin alone: of mock data nothing is kept back, and what one protection lets stay
    at the node, such as personal layers without noise, another one would let out.
    """
    dp = task.protect.get("dp")
    kinds = [f"{dp['kind']} differential privacy"] if dp else []
    kinds += ["secure aggregation"] if "secagg" in task.protect else []
    return f"{task.use} data of dataset {task.dataset or '-'}, {' and '.join(kinds) or 'no protection'}"


def refused(key: str, of: str, reason: str, detail: str) -> Result:
    """Return the answer to a task that was not accepted."""
    return replace(failure(key, reason, detail), of=of)


def failure(key: str, reason: str, detail: str) -> Result:
    """Return the result of work that came to nothing; `of` is filled in when it is sent."""
    return Result(of="", key=key, ok=False, reason=reason, detail=detail[:8000])


def without_places(error: FedjobError) -> str:
    """Return an error's message without naming paths of this node: one that holds a slash gives only its class."""
    text = str(error)
    if "/" not in text:
        return text[:1000]
    if isinstance(error, NoSpace):
        return HUB_FULL if "at the hub" in text else NODE_FULL
    return type(error).__name__


def failure_words(error: Exception) -> tuple[str, str]:
    """Return the reason and the words of what went wrong at this node, for who asked for the work; a full disk is named."""
    if isinstance(error, FedjobError):
        return error.reason, without_places(error)
    if is_full(error):
        return NoSpace.reason, NODE_FULL
    return "internal", type(error).__name__


def is_full(error: Exception) -> bool:
    """Tell whether an error says that no space is left, for a file or for the database."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in FULL
