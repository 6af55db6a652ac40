"""The progress of `job.run()` in a notebook: a hook that redraws one output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL
from fedjob.researcher.storage.position import Position


class NotebookProgress(Hook):
    """One output below the cell: rounds, the time left, the state of each node, the last metrics."""

    name = "notebook_progress"

    def __init__(self, display: NotebookDisplay) -> None:
        self._display = display

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._display.rounds = rounds
        self._display.show()

    def round_done(self, report: RoundReport) -> str | None:
        self._display.overall = {row.metric: row.value for row in report.rows if row.node == OVERALL}
        return None

    def event(self, event: JobEvent) -> None:
        self._display.tell(event)

    def end(self, outcome: str) -> None:
        self._display.close()

    def conclude(self, text: str, overall: Mapping[str, float]) -> None:
        """Write the last line: what the result is about, and the last metrics over all nodes."""
        self._display.conclude(text, overall)
