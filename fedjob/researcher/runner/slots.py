"""The slots of a home: at most `max_jobs` jobs run at once, the others wait in the order of submission.

A job that may run as far as its nodes are concerned draws a ticket, a file named
by its time of submission that its process keeps locked. The first ticket without
a slot takes the next free one. A process that dies loses its ticket with the lock.
"""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path

from fedjob.common.files import lock, make_folder, take_lock

_RUNS = b"runs"
_WAITS = b"wait"


class Ticket:
    """The place of a job in the line of those of its home that want to run.

    Args:
        home: the researcher's home.
        submitted: the job's time of submission, as its record has it.
    """

    def __init__(self, home: Path, job: str, submitted: str) -> None:
        self._folder = home / "slots"
        make_folder(self._folder)
        self._path = self._folder / f"{submitted.replace(':', '')}.{job}"
        self.runs = False
        with _alone(self._folder):  # so that nobody mistakes it for one of a dead process meanwhile
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            take_lock(self._descriptor, wait_s=math.inf)
            os.pwrite(self._descriptor, _WAITS, 0)

    def take(self, max_jobs: int) -> bool:
        """Take a slot if there is one and nobody who waits came before; return whether this job has one."""
        if self.runs:
            return True
        with _alone(self._folder):
            num_running, first = 0, True
            for path in sorted(self._folder.glob("*.job_*")):
                if path == self._path:
                    continue
                state = _state_of(path)
                num_running += state == _RUNS
                first = first and not (state == _WAITS and path.name < self._path.name)
            if first and num_running < max_jobs:
                os.pwrite(self._descriptor, _RUNS, 0)
                self.runs = True
        return self.runs

    def close(self) -> None:
        """Give the slot, or the place in the line, back."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _state_of(path: Path) -> bytes:
    """Return the state in a ticket's file; empty for one whose process is gone, which is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return b""
    try:
        if not take_lock(descriptor):
            return os.pread(descriptor, 4, 0)
        path.unlink(missing_ok=True)
        return b""
    finally:
        os.close(descriptor)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Lock the home's line; nobody holds it for more than a few milliseconds."""
    return lock(folder / "lock")
