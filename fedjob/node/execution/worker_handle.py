"""The daemon's handle of one worker process, and what passes between the two beside messages."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError, FedjobError
from fedjob.common.files import remove_folder
from fedjob.execution.orders import WorkResult
from fedjob.messaging.token_bucket import TokenBucket
from fedjob.node.execution.collection import name_result, output_folder, take_output, take_small
from fedjob.node.execution.fork_client import ForkServer
from fedjob.node.execution.link import Link
from fedjob.node.execution.output_pipes import OutputPipes
from fedjob.node.execution.release_desk import RECORD_NAME, ReleaseDesk
from fedjob.node.execution.worker_events import WorkerReturned
from fedjob.node.execution.worker_place import INBOX_NAME, WorkerIdentity
from fedjob.node.sandbox.enclosure import OUTPUT_NAME, Enclosure

EVENTS_PER_S, EVENTS_AT_ONCE = 40.0, 200.0
"""Of one worker; what goes beyond is dropped. Fedjob's half of a worker keeps to less."""


class WorkerHandle:
    """One process; its fields are guarded by the lock of `Workers`."""

    def __init__(
        self,
        name: str,
        identity: WorkerIdentity,
        enclosure: Enclosure,
        link: Link,
        pipes: OutputPipes,
        server: ForkServer,
    ) -> None:
        self.name = name
        self.identity = identity
        self.enclosure = enclosure
        self.link = link
        self.pipes = pipes
        self.server = server
        self.pid: int | None = None
        self.output: int | None = None  # descriptor of the folder that holds what it gives
        self.key = ""  # of the task it works on
        self.run = 0
        self.folder = Path()  # of the attempt, where the daemon puts what it takes
        self.place = ""  # of the task, among the worker's own folders
        self.record = ""  # of what was released about the dataset
        self.takes_small = False  # whether nobody at this node asks after the task's output
        self.is_up = False
        self.used = time.monotonic()
        self.doomed = False  # killed, or about to be: its messages are ignored from here on
        self.mourned = ""  # the task whose end waits for this worker's
        self.fault = ""  # why nothing that it sends is taken any more
        self.events = TokenBucket(EVENTS_PER_S, EVENTS_AT_ONCE, EVENTS_AT_ONCE, time.monotonic())
        self.asked = 0  # how often its task asked for or after children
        self.launched_bytes = 0  # of the children's orders
        self.exit_status: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what `fedjob node status` shows of it."""
        return {
            "job": self.identity.job,
            "pid": self.pid or 0,
            "busy": bool(self.key),
            "task": self.key,
            "gpus": list(self.identity.gpus),
        }

    def kill(self) -> None:
        """End it; nothing that it says counts from here on."""
        self.doomed = True
        self.end()

    def end(self) -> None:
        """End it, and have its death reported."""
        if self.exit_status is None:  # its number may be another's since
            if self.pid:
                kill_group(self.pid)
            self.server.kill(self.name)


def lend_record(worker: WorkerHandle, desk: ReleaseDesk) -> str:
    """Lend a task the record of releases, and return where it finds it; empty where nothing was released yet."""
    inbox = Path(worker.enclosure.folder, INBOX_NAME, worker.place)
    is_there = bool(worker.record) and desk.lend(
        worker.record, worker.name, inbox, lambda: not worker.doomed and worker.exit_status is None
    )
    return f"{worker.enclosure.inbox}/{worker.place}/{RECORD_NAME}" if is_there else ""


def take_record(worker: WorkerHandle, desk: ReleaseDesk) -> None:
    """Make what a task has changed in the record of releases the record of all, and let others have it."""
    if worker.record and worker.output is not None:
        with output_folder(worker.output, worker.place) as given:
            desk.commit(worker.record, worker.name, given)
    desk.take_back(worker.name)


def take_returned(
    worker: WorkerHandle, result: WorkResult, desk: ReleaseDesk, limit_bytes: int
) -> WorkerReturned:
    """Take what a worker gave; what can't be taken makes a failed result."""
    if not worker.key or result.key != worker.key or worker.output is None:
        raise DecodeError("a result of another task")
    worker.pipes.lead_to("")  # what is written between two tasks belongs to none
    small = None
    try:
        with output_folder(worker.output, worker.place) as given:
            if worker.record:
                desk.commit(worker.record, worker.name, given)
            if worker.takes_small:
                small = take_small(result, given, worker.folder, limit_bytes=limit_bytes)
            if small is None:
                taken = take_output(result, given, worker.folder, limit_bytes=limit_bytes)
            else:
                taken = small.result
    except FedjobError as error:
        failed = WorkResult(key=result.key, ok=False, reason=error.reason, detail=str(error)[:1000])
        taken = name_result(failed, worker.folder)
    desk.take_back(worker.name)
    with suppress(OSError, FedjobError):
        worker.link.send(["taken", f"{worker.enclosure.work}/{OUTPUT_NAME}/{worker.place}"])
    remove_folder(Path(worker.enclosure.folder, INBOX_NAME, worker.place))
    return WorkerReturned(worker.key, worker.run, taken, small)


def kill_group(pid: int) -> None:
    """End a worker and everything in its process group; whoever is gone already is gone."""
    for kill in (os.killpg, os.kill):  # it may not lead its group yet
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
