"""The terminal display of a job's events: a line for each, and a last line that is redrawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fedjob.common.lifecycle import State
from fedjob.common.notebooks import living_output
from fedjob.researcher.monitoring.event_handlers import teller
from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
from fedjob.researcher.storage.event import JobEvent, format_event

PASSING_TYPES = frozenset({"ask", "batch", "breakpoint", "metrics", "progress"})
"""Types of events that come too often for a line each: a terminal shows the last of them."""

PASSING_STATES = frozenset({State.QUEUED, State.STARTING, State.RUNNING})
"""States on a task's way. In the first round a line each shows that the nodes begin; later ones would repeat it."""


def is_start_again(event: JobEvent) -> bool:
    """Tell whether an event says that a task of a later round is on its way, as tasks of the first were."""
    on_the_way = event.type == "state" and bool(event.node) and event.round > 1
    return on_the_way and event.body.get("state") in PASSING_STATES and not event.body.get("reason")


def lines(events: Iterable[JobEvent], as_json: bool = False, *, whole: bool = False) -> Iterator[str]:
    """Yield the lines that a watcher prints.

    Args:
        as_json: one JSON object per event, as in `events.jsonl`; else lines to read.
        whole: leave out no line that repeats what the first round showed.
    """
    for event in events:
        if as_json:
            yield event.to_json()
        elif whole or not is_start_again(event):
            yield from format_event(event)[0]


class Display:
    """A view of events: on a terminal with a last line that is redrawn, elsewhere plain lines.

    Args:
        out: standard error unless given: what a program prints stays its own.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._status: Any = None
        if self._out.isatty():
            from rich.console import Console

            self._console = Console(file=self._out, highlight=False)
            self._status = self._console.status("waiting")
            self._status.start()

    def tell(self, event: JobEvent) -> None:
        """Show one event."""
        shown, now = format_event(event)
        if event.type not in PASSING_TYPES and not is_start_again(event):
            for line in shown:
                self._line(line)
        if self._status is not None and now:
            from rich.markup import escape

            self._status.update(escape(now))

    def close(self) -> None:
        """End the line that is redrawn."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, line: str) -> None:
        if self._status is not None:
            self._console.print(line, markup=False)
            return
        self._out.write(f"{line}\n")
        self._out.flush()


def write_line(text: str) -> None:
    """Write a line to standard error, where the events of a job are shown."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def attended(
    job: Any, silent: bool, in_notebook: Callable[[], NotebookDisplay]
) -> Iterator[Callable[[JobEvent], None]]:
    """Yield the function to call with each event while somebody waits for a job.

    Args:
        job: the job that handlers are given.
        silent: call handlers only; show nothing.
        in_notebook: makes the display of the job in a notebook.
    """
    display = None if silent else in_notebook() if living_output.in_notebook() else Display()
    handlers = teller(job)

    def tell(event: JobEvent) -> None:
        handlers([event])
        if display is not None:
            display.tell(event)

    try:
        yield tell
    finally:
        if display is not None:
            display.close()
