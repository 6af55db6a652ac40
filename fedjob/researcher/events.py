"""A job's events: facts in the order they happened, one JSON line each, append-only.

`event.schema.json` beside this module describes a line. Whoever holds the job's
lock writes; anybody reads, in this process or another, while it grows.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.lifecycle import HISTORY, State

VERSION = 1
"""Of a line. A reader takes lines of its own version with fields that it does not know, and refuses a later one."""

TYPES = (
    "state",
    "grant",
    "schedule",
    "setup",
    "ask",
    "round",
    "batch",
    "progress",
    "metrics",
    "result",
    "breakpoint",
    "log",
    "note",
    "error",
)
"""What fedjob itself emits; every other type is a plan's own."""

MAX_LINE_BYTES = 256 << 10
READ_BYTES = 4 << 20
"""Of a log that are taken in with one read."""


class LaterVersion(DecodeError):
    """A newer fedjob wrote it."""

    reason = "later_version"


_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One fact about a job.

    Args:
        seq: counts the job's events from 1.
        time: seconds since 1970.
        type: one of `TYPES`, or a plan's own.
        job: its id.
        task: key of the task that it is about; empty for none.
        node: that it is about, or that said it; empty for the job as a whole.
        round: from 1; 0 where it is about none.
    """

    type: str
    seq: int = 0
    time: float = 0.0
    job: str = ""
    task: str = ""
    node: str = ""
    round: int = 0
    body: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        from fedjob.researcher.formatting import format_event, prefix

        lines, now = format_event(self)
        return "\n".join(lines) or f"{prefix(self)} | {now}"

    def to_json(self) -> str:
        """Return the line that the log holds, without its end."""
        return json.dumps({"v": VERSION, **asdict(self)}, separators=(",", ":"))


_FIELDS = frozenset(f.name for f in fields(JobEvent))


def is_job_state(event: JobEvent) -> bool:
    """Tell whether an event says that the job itself, not a node's task, entered a state."""
    return event.type == "state" and not event.node


def is_end(event: JobEvent) -> bool:
    """Tell whether an event ends an attempt at the job."""
    return is_job_state(event) and event.body.get("state") in HISTORY


def state_of(event: JobEvent) -> State:
    """Return the state that a `state` event tells; `draft` for one that this version does not know."""
    try:
        return State(str(event.body.get("state")))
    except ValueError:
        return State.DRAFT


def check_type(type_: str) -> str:
    """Return `type_` if an event may have it.

    Raises:
        SpecError: it may not.
    """
    if not _TYPE.fullmatch(type_):
        raise SpecError(
            f"an event's type is 1 to 64 of a-z, 0-9, '_', '.', '-', beginning with a letter; found {type_[:80]!r}"
        )
    return type_


def decode_event(line: str | bytes) -> JobEvent:
    """Return the event that a line holds.

    Raises:
        LaterVersion: a newer fedjob wrote it.
        DecodeError: it is no event.
    """
    try:
        found = json.loads(line)
        version = found.pop("v")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DecodeError(f"expected an event as a line of JSON, found {line[:80]!r}") from error
    if not isinstance(version, int) or version > VERSION:
        raise LaterVersion(
            f"expected an event of version {VERSION}, found {str(version)[:20]}: a newer fedjob wrote it, update this one"
        )
    try:
        return JobEvent(**{key: value for key, value in found.items() if key in _FIELDS})
    except TypeError as error:
        raise DecodeError(f"an event lacks a field: {error}") from error


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
        self._file = path.open("a+b")
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
    def seq(self) -> int:
        """Number of the last event."""
        return self._seq

    def add(self, type_: str, /, *, round_: int = 0, node: str = "", task: str = "", **body: Any) -> JobEvent:
        """Append an event and tell the listeners."""
        return self.record(type_, body, round_=round_, node=node, task=task)

    def record(
        self, type_: str, body: Mapping[str, Any], *, round_: int = 0, node: str = "", task: str = ""
    ) -> JobEvent:
        """Append an event whose body came from elsewhere, such as a node, and tell the listeners.

        Raises:
            SpecError: no event may have that type.
        """
        check_type(type_)
        plain = _plain(body)
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


def decode_lines(block: bytes) -> Iterator[JobEvent]:
    """Yield the events in whole lines; what is no event at all, a power cut's zeros, is left out.

    Raises:
        LaterVersion: a newer fedjob wrote them.
    """
    for line in block.splitlines():
        try:
            yield decode_event(line)
        except LaterVersion:
            raise
        except DecodeError:
            continue


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


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; what is not a finite number becomes a word."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value if not isinstance(value, State) else value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)
