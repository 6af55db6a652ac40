"""A job's events: facts in the order they happened, one JSON line each, append-only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One fact about a job.

    Args:
        seq: counts the job's events from 1.
        time: seconds since 1970.
        type: `state`, `round`, `note`, `error`, `grant`, `metrics`, `progress`, `breakpoint`, `result`, or a plan's own.
        job: its id.
        task: key of the task that it is about; empty for none.
        node: that it is about; empty for the job as a whole.
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
        who = f" {self.node}" if self.node else ""
        where = f" round {self.round}" if self.round else ""
        what = " ".join(f"{key}={_short(value)}" for key, value in self.body.items())
        return f"{time.strftime('%H:%M:%S', time.localtime(self.time))}{where}{who} {self.type}: {what}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


class EventLog:
    """The writer: one at a time, whoever holds the job's lock.

    Args:
        listeners: called with each event after it is written.
    """

    def __init__(
        self, path: Path, job: str = "", listeners: tuple[Callable[[JobEvent], None], ...] = ()
    ) -> None:
        self._job = job
        self._listeners = listeners
        self._seq = sum(1 for _ in read_events(path))
        self._file = path.open("a", encoding="utf-8")

    def add(self, type_: str, *, round_: int = 0, node: str = "", task: str = "", **body: Any) -> JobEvent:
        """Append an event and tell the listeners."""
        self._seq += 1
        event = JobEvent(
            type=type_,
            seq=self._seq,
            time=time.time(),
            job=self._job,
            task=task,
            node=node,
            round=round_,
            body=body,
        )
        self._file.write(json.dumps({"v": VERSION, **asdict(event)}, default=str) + "\n")
        self._file.flush()
        for listener in self._listeners:
            listener(event)
        return event

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path, since: int = 0) -> Iterator[JobEvent]:
    """Yield the events after number `since`; a torn last line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            fields.pop("v", None)
            event = JobEvent(**fields)
            if event.seq > since:
                yield event
