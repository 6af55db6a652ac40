"""The end of a job's log, and the state that follows from it, kept while the log grows: what is new is read, once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from fedjob.researcher.monitoring.live import Live
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.event_log import EventFile, read_last_events

TAIL_BYTES = 1 << 20
"""Of a log's end that is read at first: some thousand events, whatever its length."""

MAX_EVENTS = 8000
"""Events that are kept; of more the oldest go."""

MAX_TAILS = 32


class LogTail:
    """The end of one log."""

    def __init__(self, path: Path, first: Live) -> None:
        self._lock = threading.Lock()
        self._first = first
        self._path = path
        self._size = -1
        self._restart()

    def _restart(self) -> None:
        self._events = read_last_events(self._path, TAIL_BYTES)
        self._file = EventFile(self._path, self._events[-1].seq if self._events else 0)
        self._live = self._first.after(self._events)

    def read(self) -> tuple[list[JobEvent], Live]:
        """Return the last events by now, and the state that follows from them.

        Raises:
            LaterVersion: a newer fedjob wrote them.
            OSError: the file can't be read.
        """
        with self._lock:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size < self._size:  # another log has its place
                self._restart()
            self._size = size
            while new := self._file.read():
                self._events = [*self._events, *new][-MAX_EVENTS:]
                self._live = self._live.after(new)
            return self._events, self._live


class LogTails:
    """The ends of the logs that were looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[Path, LogTail] = OrderedDict()

    def read(self, path: Path, first: Live) -> tuple[list[JobEvent], Live]:
        """Return the last events of a log, and the state that follows from them; see `LogTail.read`.

        Args:
            first: what is known without events.
        """
        with self._lock:
            tail = self._tails.pop(path, None)
        if tail is None:
            tail = LogTail(path, first)
        with self._lock:
            self._tails[path] = tail
            while len(self._tails) > MAX_TAILS:
                self._tails.popitem(last=False)
        return tail.read()
