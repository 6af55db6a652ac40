"""The records of what was released about datasets, lent to one task at a time: a copy goes in, a proposal comes out.

Two tasks that decided by the same copy could release two numbers whose difference is about too few rows.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedjob.common.files import replace_durably
from fedjob.node.execution.collection import copy_file
from fedjob.privacy.record_continuity import check_continued

RECORD_NAME = "releases.safetensors"
"""Of the record's copy in a task's inbox, and of the proposal in its output."""

MAX_RECORD_BYTES = 4 << 30
LOOK_EVERY_S = 0.2


@dataclass
class ReleaseDesk:
    """Who has which record; used by the threads that listen to workers."""

    _borrowers: dict[str, str] = field(default_factory=dict)  # path of a record -> the worker that has it
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def lend(self, record: str, worker: str, inbox: Path, is_wanted: Callable[[], bool]) -> bool:
        """Wait for a record and put a copy of it into a task's inbox; the worker has it until `take_back`.

        Args:
            is_wanted: asked while it waits; whether the worker is still there.

        Returns:
            Whether there is a record; nothing was recorded before the first release.
        """
        with self._changed:
            while self._borrowers.get(record, worker) != worker:
                if not is_wanted():
                    return False
                self._changed.wait(LOOK_EVERY_S)
            self._borrowers[record] = worker
        source = Path(record)
        if not source.exists():
            return False
        inbox.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(source, inbox / RECORD_NAME)  # as large as many datasets' memory
        return True

    def commit(self, record: str, worker: str, given: int) -> None:
        """Make what a worker proposes the record, if it has borrowed it.

        Args:
            given: descriptor of the task's output folder.

        Raises:
            DecodeError: the proposal is no file of its own, or forgets what was released before.
            ObjectTooLarge: it is larger than any record.
            NoSpace: the node's disk is full.
        """
        try:
            os.stat(RECORD_NAME, dir_fd=given, follow_symlinks=False)
        except OSError:  # it released nothing, and there was no record
            return
        if self._borrowers.get(record) != worker:
            return
        target = Path(record)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        proposal = target.with_suffix(f".{worker}.tmp")
        try:
            copy_file(given, RECORD_NAME, proposal, limit_bytes=MAX_RECORD_BYTES, durable=True)
            check_continued(target, proposal)
            replace_durably(proposal, target)
        finally:
            proposal.unlink(missing_ok=True)

    def take_back(self, worker: str) -> None:
        """Let others have what a worker has borrowed."""
        with self._changed:
            for record in [record for record, who in self._borrowers.items() if who == worker]:
                del self._borrowers[record]
            self._changed.notify_all()
