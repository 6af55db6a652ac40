"""The search for orphaned tasks: those that nodes still hold for jobs that are over at this home."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedjob.common.errors import FedjobError
from fedjob.common.lifecycle import HISTORY
from fedjob.common.types import Address, check_job_id
from fedjob.messaging.messages import End, Ping, Pong
from fedjob.researcher.storage.breakpoints import list_breakpoints, states_at, states_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record

if TYPE_CHECKING:
    from pathlib import Path

    from fedjob.researcher.connection.connection import Connection

LOOK_EVERY_S = 60.0

MAX_ENDED = 100
"""Jobs whose tasks one node is told to end at a time; of more, the others follow with the next look."""


class OrphanedTasks:
    """The search for orphaned tasks, at the start of a job and every minute.

    Args:
        job: the job that searches; its own tasks are no orphans.
    """

    def __init__(self, session: Connection, job: str) -> None:
        self._session = session
        self._job = job
        self._looked: float | None = None
        self._question = ""
        self._answered: set[str] = set()

    def look(self, epoch: int) -> None:
        """Ask every node for the jobs whose tasks it holds, if `LOOK_EVERY_S` have passed."""
        now = time.monotonic()
        if self._looked is None or now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._question = self._session.endpoint.send(None, Ping(), job=self._job, epoch=epoch)
            self._answered.clear()

    def end_unknown(self, node: str, pong: Pong) -> None:
        """End the tasks that a node holds of jobs that are over, or that this home does not know."""
        if pong.of != self._question or node in self._answered:  # nobody was asked, or it has answered
            return
        self._answered.add(node)
        for job in pong.jobs[:MAX_ENDED]:
            if job == self._job:
                continue
            ending = end_of(self._session.home, job, node)
            if ending is not None:
                end, epoch = ending
                self._session.endpoint.send(Address(node), end, job=job, epoch=epoch)


def end_of(home: Path, job: str, node: str) -> tuple[End, int] | None:
    """Return the `End` for a node that holds tasks of a job, and its epoch; None while the job goes on."""
    try:
        folder = JobFolder(home / "jobs" / check_job_id(job))
        if not folder.spec.exists():
            return End(outcome="lost"), int(time.time())
        record = load_record(folder.record)
        if record.state not in HISTORY:
            return None
        named: dict[str, set[str]] = {}
        for path in list_breakpoints(folder.breakpoints):
            for each, state in states_of(path).items():
                named.setdefault(each, set()).add(state)
    except (FedjobError, OSError):  # unreadable: it may be a job that goes on
        return None
    return End(outcome=record.state, keep_states=states_at(named, node)), record.epoch
