"""The meter of a party's line: bytes of objects that went over it each way, and the seconds in which any did."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LEAST_BYTES = 64 * 1024
"""Smaller objects take the time of a request, and tell nothing of the line."""
MAX_STRETCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time in which objects went over a line without a pause.

    Args:
        way: `down` or `up`.
        size_bytes: of these objects.
        seconds: from the first one's start to the last one's end.
        at: when it ended, seconds since 1970.
    """

    way: str
    size_bytes: int
    seconds: float
    at: float


@dataclass(slots=True)
class _Moving:
    began: float
    moving: int = 0
    size_bytes: int = 0


class LineMeter:
    """Measures transfers; those at the same time share a line, and count as one stretch. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Moving] = {}
        self._stretches: list[Stretch] = []

    @contextmanager
    def moving(self, way: str, size_bytes: int) -> Iterator[None]:
        """Count a transfer, from its start to its end; one that fails ends its stretch uncounted."""
        if size_bytes < LEAST_BYTES:
            yield
            return
        with self._lock:
            found = self._open.setdefault(way, _Moving(time.monotonic()))
            found.moving += 1
        moved = 0
        try:
            yield
            moved = size_bytes
        finally:
            with self._lock:
                found.moving -= 1
                found.size_bytes += moved
                if not found.moving:
                    del self._open[way]
                    self._close(way, found)

    def _close(self, way: str, found: _Moving) -> None:
        took = time.monotonic() - found.began
        if found.size_bytes and took > 0:
            done = Stretch(way=way, size_bytes=found.size_bytes, seconds=took, at=time.time())
            self._stretches = [*self._stretches[1 - MAX_STRETCHES :], done]

    def take(self) -> list[Stretch]:
        """Return the newest stretches since this was called last, `MAX_STRETCHES` at most, oldest first."""
        with self._lock:
            found, self._stretches = self._stretches, []
        return found
