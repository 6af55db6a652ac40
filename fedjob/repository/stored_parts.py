"""The parts of files that one side has stored: files that have some bytes in common have these parts in common."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

MAX_FILES = 4096
"""Of whose parts this side takes note; of the oldest beyond, a part that a newer file has too may be deleted."""


class StoredParts:
    """Which parts belong to which files, so that deleting a file leaves the parts of others; used by several threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[object, set[str]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_forgotten = 0
        """How often a file has been deleted."""

    def note(self, file: object, part: str) -> None:
        """Take note of a part before it is stored, or found to be there: from now on it is not deleted with another file.

        Args:
            file: what stands for a file that has no name yet, or its name.
        """
        with self._lock:
            self._files.setdefault(file, set()).add(part)

    def name(self, file: object, name: str) -> None:
        """Take note of the name of a file whose parts are all stored."""
        with self._lock:
            self._files.setdefault(name, set()).update(self._files.pop(file, ()))
            self._files.move_to_end(name)
            while len(self._files) > MAX_FILES:
                self._files.popitem(last=False)

    def forget(self, file: object, parts: Iterable[str], delete: Callable[[str], None]) -> None:
        """Delete those parts of a file that belong to no other one."""
        with self._lock:
            self._files.pop(file, None)
            self.num_forgotten += 1
            for part in parts:
                if not any(part in others for others in self._files.values()):
                    delete(part)
