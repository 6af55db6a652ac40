"""Event handlers, `@fedjob.on`: functions that are called with a job's events where they were defined.

They run in a process that follows a job: in `run()`, `wait()` and `events(follow=True)`.
Each event is delivered once per process, however many follow the job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedjob.common import lifecycle
from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.researcher.storage.event import JobEvent, check_type, is_end, is_job_state

Handler = Callable[[JobEvent, Any], object]
H = TypeVar("H", bound=Handler)

MAX_JOBS = 1000
"""Number of jobs whose last delivered event is remembered."""

MAX_TASKS = 10_000
"""Number of tasks whose begin is remembered as delivered."""

_log = logging.getLogger("fedjob")

_MOMENTS: dict[str, Callable[[JobEvent], bool]] = {
    "job.started": lambda event: is_job_state(event) and event.body.get("state") == "running",
    "job.finished": is_end,
    "job.state": is_job_state,
    "round.started": lambda event: event.type == "ask",
    "round.finished": lambda event: event.type == "round",
    lifecycle.FINISHED: lambda event: _task_moment(event) == lifecycle.FINISHED,
    lifecycle.BATCH: lambda event: _task_moment(event) == lifecycle.BATCH,
}
"""Names of moments -> test of an event; every type of an event is a name, too."""

STARTED = lifecycle.STARTED
"""The one moment that no event has by itself: of a short task only its own events, or its end, are reported."""

_NO_WORK = ("state", "log", "note", "error")
"""Types of events that come before a task's work, or after it."""


def _task_moment(event: JobEvent) -> str:
    return lifecycle.moment_of(event.type, event.body) if event.node else ""


@dataclass
class Handlers:
    """Functions by the name of the event that they handle, and how far each job's events are delivered.

    Args:
        delivered: job -> number of the last event that was delivered.
        begun: tasks, by job and key, whose begin was delivered; False for those that have ended too.
    """

    by_name: dict[str, list[Handler]] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    begun: dict[tuple[str, str], bool] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def on(self, name: str) -> Callable[[H], H]:
        """Return a decorator that has a function called as `handler(event, job)`.

        A function of the same module and name takes the place of the one before, so that a
        notebook's cell can be run again.

        Args:
            name: `round.finished`, `job.finished`, `task.started`, ..., or the type of an event:
                `metrics`, `log`, a plan's own.

        Raises:
            SpecError: no event has that name.
        """
        if not isinstance(name, str):
            raise SpecError(
                f"@fedjob.on takes the name of an event, such as 'round.finished'; found {shown(name)}"
            )
        known = sorted([*_MOMENTS, STARTED])
        if "." in name and name not in known:
            raise SpecError(
                f"there is no moment {shown(name)}: expected one of {', '.join(known)}, or an event's type"
            )
        check_type(name)

        def keep(handler: H) -> H:
            with self._lock:
                others = [h for h in self.by_name.get(name, ()) if _known_as(h) != _known_as(handler)]
                self.by_name[name] = [*others, handler]
            return handler

        return keep

    def off(self, handler: Handler) -> None:
        """Remove a function from all events."""
        with self._lock:
            for name, kept in list(self.by_name.items()):
                self.by_name[name] = [h for h in kept if h is not handler]

    def tell(self, events: Sequence[JobEvent], job: Any) -> list[str]:
        """Call the handlers of these events; return the problems, in words.

        An end that was followed by a restart in the same batch was not the job's.
        """
        ends = [event for event in events if is_job_state(event)]
        problems: list[str] = []
        for event in events:
            with self._lock:
                if event.seq <= self.delivered.get(event.job, 0):
                    continue
                self.delivered.pop(event.job, None)  # put last, so that the oldest goes first
                self.delivered[event.job] = event.seq
                if len(self.delivered) > MAX_JOBS:
                    del self.delivered[next(iter(self.delivered))]
                starts = self._begins(event)
                wanting = [(name, h) for name, kept in self.by_name.items() for h in kept]
            wanting.sort(key=lambda entry: entry[0] != STARTED)  # a short task begins before it ends
            for name, handler in wanting:
                if name == "job.finished" and is_end(event) and event is not ends[-1]:
                    continue
                if name == STARTED:
                    wanted = starts
                else:
                    wanted = name == event.type or (name in _MOMENTS and _MOMENTS[name](event))
                if not wanted:
                    continue
                try:
                    handler(event, job)
                except Exception as error:  # a handler never ends a job
                    problems.append(
                        f"the handler {_known_as(handler)[1]} of {shown(name)} raised {type(error).__name__}: {error}"
                    )
        return problems

    def _begins(self, event: JobEvent) -> bool:
        """Return whether this event is the first of a task's work, and remember that."""
        task, moment = (event.job, event.task), _task_moment(event)
        known = self.begun.get(task)  # False: it has ended
        if not event.task or not (moment or event.type not in _NO_WORK):
            return False
        begins = known is None or (known is False and moment == lifecycle.STARTED)
        self.begun.pop(task, None)  # put last, so that the oldest goes first
        self.begun[task] = moment != lifecycle.FINISHED and (begins or bool(known))
        if len(self.begun) > MAX_TASKS:
            del self.begun[next(iter(self.begun))]
        return begins


def _known_as(handler: Handler) -> tuple[str, str]:
    return (
        getattr(handler, "__module__", None) or "",
        getattr(handler, "__qualname__", None) or repr(handler),
    )


HANDLERS = Handlers()
"""The handlers of this process."""


def on(name: str) -> Callable[[H], H]:
    """Have the decorated function called as `handler(event, job)` at a moment in the life of any job.

    It runs where it was defined, in a process that follows the job: `job.run()`, `job.wait()` and
    `job.events(follow=True)`. What it raises becomes a note and ends nothing.

    Args:
        name: `job.started`, `job.finished`, `job.state`, `round.started`, `round.finished`, `task.started`,
            `task.finished`, `batch.done`, or the type of an event: `metrics`, `log`, ..., a plan's own.

    Raises:
        SpecError: no event has that name.
    """
    return HANDLERS.on(name)


def off(handler: Handler) -> None:
    """Call a function that `@fedjob.on` decorated no more."""
    HANDLERS.off(handler)


def teller(job: Any) -> Callable[[Sequence[JobEvent]], None]:
    """Return a function that delivers a followed job's events to this process's handlers and logs problems."""

    def tell(events: Sequence[JobEvent]) -> None:
        for problem in HANDLERS.tell(events, job):
            _log.warning("%s", problem)

    return tell
