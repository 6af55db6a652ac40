"""The hook that calls the functions decorated with `@fedjob.on`, for a job that runs in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.monitoring.event_handlers import HANDLERS
from fedjob.researcher.storage.event import JobEvent


class EventHandlersHook(Hook):
    """Calls handlers as events happen; what they raise becomes a note.

    Args:
        job: the job that handlers are given.
        note: adds a note to the job's events.
    """

    name: ClassVar[str] = "telling"

    def __init__(self, job: Any, note: Callable[[str], object]) -> None:
        self._job = job
        self._note = note
        self._noting = False

    def event(self, event: JobEvent) -> None:
        problems = HANDLERS.tell([event], self._job)
        if self._noting:
            return  # a handler of notes that raises would be noted for ever
        self._noting = True
        try:
            for problem in problems:
                self._note(problem)
        finally:
            self._noting = False
