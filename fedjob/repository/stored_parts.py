"""The parts of files that one side has stored: files that have some bytes in common have these parts in common."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

MAX_FILES = 4096
"""Of whose parts this side takes note; of the oldest beyond, a part that a newer file has too may be deleted."""

FileOfJob = tuple[str, object]
"""The job that holds a file, and the file's name; what stands for one that has no name yet."""


class StoredParts:
    """Which parts belong to which files, so that deleting a file leaves the parts of others; used by several threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[FileOfJob, set[str]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, file: FileOfJob, part: str) -> None:
        """Take note of a part before it is stored, or found to be there: from now on it is not deleted with another file.

        What is there of a file whose storing fails is known by that, even where the answer was lost that it is stored.
        """
        with self._lock:
            self._files.setdefault(file, set()).add(part)

    def name(self, file: FileOfJob, name: str) -> None:
        """Take note of the name of a file whose parts are all stored, and so is what names them: it is none of them."""
        named = file[0], name
        with self._lock:
            self._files.setdefault(named, set()).update(self._files.pop(file, set()) - {name})
            self._files.move_to_end(named)
            while len(self._files) > MAX_FILES:
                self._files.popitem(last=False)

    def let_go(self, file: FileOfJob) -> None:
        """Take note that a file was not stored: what is there of it goes with another file that has it."""
        with self._lock:
            self._files.pop(file, None)

    def forget(self, file: FileOfJob, parts: Iterable[str], delete: Callable[[str], None]) -> None:
        """Delete those parts of a file that belong to no other one of its job.

        Args:
            parts: besides those that were noted, which an earlier process may have done.
        """
        with self._lock:
            known = sorted({*parts, *self._files.pop(file, ())})
            others = [found for (job, _), found in self._files.items() if job == file[0]]
            for part in known:
                if not any(part in found for found in others):
                    delete(part)
