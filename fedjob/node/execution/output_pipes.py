"""The pipes that a worker's standard output and error lead to: the daemon writes what comes into the tasks' logs."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress

from fedjob.node.config.home import NodeHome
from fedjob.node.storage.logs import STREAMS

READ_BYTES = 64 * 1024
DRAINED_BYTES = 4 << 20
"""Read at most before a task's log counts as complete: user code may go on writing."""


class OutputPipes:
    """Two pipes and the thread that reads them; it ends when nobody can write any more.

    Args:
        limit_bytes: of one task's log of one stream; what goes beyond is dropped.
    """

    def __init__(self, home: NodeHome, limit_bytes: int) -> None:
        self._home = home
        self._limit_bytes = limit_bytes
        self._key = ""
        self._lock = threading.Lock()
        self._reading: dict[int, str] = {}
        self.writing: list[int] = []
        for stream in STREAMS:
            reads, writes = os.pipe()
            os.set_blocking(reads, False)
            self._reading[reads] = stream
            self.writing.append(writes)

    def start(self) -> None:
        """Begin to read; the caller has given the other ends away."""
        for descriptor in self.writing:
            os.close(descriptor)
        self.writing = []
        threading.Thread(target=self._read, name="worker's output", daemon=True).start()

    def lead_to(self, key: str) -> None:
        """Let what is written from here on go to the logs of a task."""
        self.drain()
        with self._lock:
            self._key = key

    def drain(self) -> None:
        """Take what has been written so far."""
        with self._lock:
            for descriptor in list(self._reading):
                taken = 0
                while taken < DRAINED_BYTES and (size := self._take(descriptor)):
                    taken += size

    def _read(self) -> None:
        poll = select.poll()
        for descriptor in self._reading:
            poll.register(descriptor, select.POLLIN)
        open_ones = set(self._reading)
        while open_ones:
            for descriptor, found in poll.poll():
                with self._lock:
                    size = self._take(descriptor)
                    if not size and found & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                        poll.unregister(descriptor)
                        open_ones.discard(descriptor)
        with self._lock:
            for descriptor in self._reading:
                os.close(descriptor)
            self._reading = {}

    def _take(self, descriptor: int) -> int:
        """Move some bytes from a pipe to the log; return how many."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except OSError:  # nothing is there now, or it was closed
            return 0
        if data and self._key:
            path = self._home.log_of(self._key, self._reading[descriptor])
            with (
                suppress(OSError),
                open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "wb") as file,
            ):
                file.write(data[: max(0, self._limit_bytes - os.fstat(file.fileno()).st_size)])
        return len(data)
