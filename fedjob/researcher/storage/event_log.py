"""The log of a job's events: facts in the order they happened, one JSON line each, append-only.

Whoever holds the job's lock writes; anybody reads, in this process or another,
while it grows.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError
from fedjob.common.files import private
from fedjob.researcher.storage.event import (
    JobEvent,
    LaterVersion,
    as_json,
    check_type,
    decode_event,
    decode_lines,
    is_job_state,
)

MAX_LINE_BYTES = 256 << 10
READ_BYTES = 4 << 20
"""Of a log that are taken in with one read."""


class EventLog:
    """The writer: one at a time, whoever holds the job's lock.

    What a crash left of a last line goes when the log is opened; counting goes on
    after the last whole one.

    Args:
        listeners: called with each event after it is written.
    """

    def __init__(
        self,
        path: Path,
        job: str = "",
        listeners: tuple[Callable[[JobEvent], None], ...] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._job = job
        self._listeners = listeners
        self._clock = clock
        self._lock = threading.RLock()
        self._file = open(path, "a+b", opener=private)  # noqa: SIM115
        try:
            whole_bytes, self._seq = _last_whole_line(self._file)
            self._file.truncate(whole_bytes)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        """The length of the log."""
        return self._file.tell()

    @property
    def seq(self) -> int:
        """Number of the last event."""
        return self._seq

    def add(self, type_: str, /, *, round_: int = 0, node: str = "", task: str = "", **body: Any) -> JobEvent:
        """Append an event and call the listeners."""
        return self.record(type_, body, round_=round_, node=node, task=task)

    def record(
        self, type_: str, body: Mapping[str, Any], *, round_: int = 0, node: str = "", task: str = ""
    ) -> JobEvent:
        """Append an event whose body came from elsewhere, such as a node, and call the listeners.

        Raises:
            SpecError: no event may have that type.
        """
        check_type(type_)
        plain = as_json(body)
        with self._lock:
            self._seq += 1
            event = JobEvent(
                type=type_,
                seq=self._seq,
                time=round(self._clock(), 6),
                job=self._job,
                task=task,
                node=node,
                round=round_,
                body=plain if isinstance(plain, dict) else {},
            )
            line = event.to_json().encode()
            if len(line) > MAX_LINE_BYTES:
                event = JobEvent(**{**asdict(event), "body": {"too_large_bytes": len(line)}})
                line = event.to_json().encode()
            self._file.write(line + b"\n")
            self._file.flush()
            if is_job_state(event):
                os.fsync(self._file.fileno())
        for listener in self._listeners:
            listener(event)
        return event

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class EventFile:
    """A reader that takes up where it stopped; the log may grow meanwhile.

    Args:
        since: number of the last event that is not wanted.
    """

    def __init__(self, path: Path, since: int = 0) -> None:
        self._path = path
        self._since = since
        self._offset: int | None = None

    def read(self) -> list[JobEvent]:
        """Return the next events; an empty list where there are none by now.

        Raises:
            LaterVersion: a newer fedjob wrote them.
            OSError: the file can't be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            size = os.fstat(file.fileno()).st_size
            if self._offset is None:
                self._offset = _offset_before(file, size, self._since)
            if size < self._offset:  # a torn line was taken back
                self._offset = 0
            events: list[JobEvent] = []
            while not events and self._offset < size:
                file.seek(self._offset)
                block = file.read(READ_BYTES)
                whole = block[: block.rfind(b"\n") + 1]
                if not whole:
                    break
                self._offset += len(whole)
                events = [event for event in decode_lines(whole) if event.seq > self._since]
            if events:
                self._since = events[-1].seq
            return events


def read_last_events(path: Path, num_bytes: int) -> list[JobEvent]:
    """Return the events in the last so many bytes of a log, whatever its length: none that is not there as a whole.

    Raises:
        LaterVersion: a newer fedjob wrote them.
        OSError: the file can't be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        start = max(0, os.fstat(file.fileno()).st_size - num_bytes)
        file.seek(start)
        block = file.read(num_bytes)
    begin = block.find(b"\n") + 1 if start else 0
    return list(decode_lines(block[begin : block.rfind(b"\n") + 1]))


def read_events(path: Path, since: int = 0) -> Iterator[JobEvent]:
    """Yield the events after number `since` that are there; a torn last line is left out."""
    file = EventFile(path, since)
    while events := file.read():
        yield from events


def _last_whole_line(file: Any) -> tuple[int, int]:
    """Return where the last whole event ends, and its number; looks at the end of the file only."""
    end = file.seek(0, os.SEEK_END)
    start = end
    tail = b""
    while start > 0:
        step = min(64 << 10, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
        stop = tail.rfind(b"\n") + 1
        while stop:
            begin = tail.rfind(b"\n", 0, stop - 1) + 1
            if begin == 0 and start > 0:
                break  # the line's beginning lies before what was read
            try:
                return start + stop, decode_event(tail[begin:stop]).seq
            except LaterVersion:
                raise
            except DecodeError:
                stop = begin
    return 0, 0


def _offset_before(file: Any, size: int, since: int) -> int:
    """Return where a line begins that is not after event number `since + 1`, by halving."""
    low, high = 0, size
    while since and high - low > 2 * MAX_LINE_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        at = file.tell()
        try:
            seq = decode_event(file.readline()).seq
        except DecodeError:
            return low
        if seq <= since:
            low = at
        else:
            high = middle
    return low
