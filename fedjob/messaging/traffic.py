"""Counters of the traffic of each job: messages and objects by kind, without a clock of their own."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from fedjob.common.errors import DecodeError
from fedjob.common.terminal.times import when

MAX_JOBS = 1000
"""Largest number of jobs counted at a time; the one without traffic for longest is forgotten."""

OBJECT = "object"
"""The kind of objects that go through the repository, or attached to a message."""

Direction = Literal["in", "out"]
HEADER = ("direction", "kind", "count", "bytes", "max_bytes", "first", "last")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The count of one kind of message in one direction.

    Args:
        count: number of transmissions, resent ones included.
        bytes: of all transmissions, as encoded.
        max_bytes: of the largest.
        first, last: times of the first and last one, seconds since 1970.
    """

    direction: str
    kind: str
    count: int = 0
    bytes: int = 0
    max_bytes: int = 0
    first: float = field(default=0.0, metadata={"shown": when})
    last: float = field(default=0.0, metadata={"shown": when})

    def plus(self, other: Tally) -> Tally:
        """Return the sum of two tallies."""
        first = min(self.first or other.first, other.first or self.first)
        return Tally(
            direction=self.direction,
            kind=self.kind,
            count=self.count + other.count,
            bytes=self.bytes + other.bytes,
            max_bytes=max(self.max_bytes, other.max_bytes),
            first=first,
            last=max(self.last, other.last),
        )


class Traffic:
    """Counters of all jobs; usable from several threads at once."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[tuple[str, str], Tally]] = {}
        self._lock = threading.Lock()

    def note(self, job: str, direction: Direction, kind: str, num_bytes: int, at: float) -> None:
        """Count one message or object; messages without a job are not counted."""
        if not job:
            return
        one = Tally(
            direction=direction, kind=kind, count=1, bytes=num_bytes, max_bytes=num_bytes, first=at, last=at
        )
        with self._lock:
            tallies = self._jobs.pop(job, {})
            self._jobs[job] = tallies
            key = (direction, kind)
            tallies[key] = tallies[key].plus(one) if key in tallies else one
            if len(self._jobs) > MAX_JOBS:
                del self._jobs[next(iter(self._jobs))]

    def note_frame(
        self, job: str, direction: Direction, kind: str, size_bytes: int, attached_bytes: int, at: float
    ) -> None:
        """Count the frame of a message, and the parameters in it as the object that they are."""
        self.note(job, direction, kind, size_bytes - attached_bytes, at)
        if attached_bytes:
            self.note(job, direction, OBJECT, attached_bytes, at)

    def of(self, job: str) -> tuple[Tally, ...]:
        """Return a job's tallies, sorted by direction and kind."""
        with self._lock:
            found = dict(self._jobs.get(job, {}))
        return tuple(found[key] for key in sorted(found))

    def take(self, job: str) -> tuple[Tally, ...]:
        """Return a job's tallies since the last call."""
        with self._lock:
            found = self._jobs.pop(job, {})
        return tuple(found[key] for key in sorted(found))


def together(*counted: Iterable[Tally]) -> tuple[Tally, ...]:
    """Add tallies of the same kinds."""
    sums: dict[tuple[str, str], Tally] = {}
    for tallies in counted:
        for tally in tallies:
            key = (tally.direction, tally.kind)
            sums[key] = sums[key].plus(tally) if key in sums else tally
    return tuple(sums[key] for key in sorted(sums))


def to_csv(tallies: Iterable[Tally]) -> str:
    """Return tallies as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows([getattr(tally, name) for name in HEADER] for tally in tallies)
    return text.getvalue()


def from_csv(text: str) -> tuple[Tally, ...]:
    """Return what `to_csv` wrote.

    Raises:
        DecodeError: the text is not such a table.
    """
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or tuple(rows[0]) != HEADER:
        raise DecodeError(f"expected the header {','.join(HEADER)}")
    try:
        return tuple(
            Tally(
                direction=direction,
                kind=kind,
                count=int(count),
                bytes=int(size),
                max_bytes=int(largest),
                first=float(first),
                last=float(last),
            )
            for direction, kind, count, size, largest, first, last in rows[1:]
        )
    except ValueError as error:
        raise DecodeError(f"expected numbers in the rows of a traffic file: {error}") from error
