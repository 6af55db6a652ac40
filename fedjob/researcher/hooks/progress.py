"""The progress bar of `job.run()`: a hook that draws with rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import printable
from fedjob.common.lifecycle import State
from fedjob.common.notebooks import living_output
from fedjob.common.terminal.colours import WAITING, rich_style
from fedjob.common.types import ENDLESS
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.hooks.notebook_progress import NotebookProgress
from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
from fedjob.researcher.storage.event import MAX_REMARKS, JobEvent, names, remark_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL
from fedjob.researcher.storage.position import Position

_NOTED = f"[{rich_style(WAITING)}]"

_ID_WIDTH = 12
"""Characters of a job's id that stand before the bar."""

MANY_NODES = 10
"""Nodes of an ask from which on the bar counts those that are done, and names none that is left out."""


class ProgressBar(Hook):
    """One line that is redrawn: rounds done, the time left, and the last overall metrics; of many nodes how many are done."""

    name = "progress"

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._progress: Any = None
        self._task: Any = None
        self._note = ""
        self._num_asked = self._num_done = 0
        self._remarks: set[str] = set()

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        def whole(width: int) -> Column:
            return Column(no_wrap=True, min_width=width)

        digits = 4 if rounds == ENDLESS else len(str(rounds))
        # in a narrow terminal the bar and the end of the note give way, no numbers
        self._progress = Progress(
            TextColumn("[bold]{task.description}", table_column=whole(_ID_WIDTH)),
            BarColumn(),
            MofNCompleteColumn(table_column=whole(2 * digits + 1)),
            TextColumn("rounds", table_column=whole(len("rounds"))),
            TimeRemainingColumn(compact=True, table_column=whole(len("00:00"))),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(
            folder.path.name[:_ID_WIDTH],
            total=None if rounds == ENDLESS else rounds,
            completed=position.round,
            note="asking the nodes",
        )
        self._progress.start()

    def round_done(self, report: RoundReport) -> str | None:
        overall = {row.metric: row.value for row in report.rows if row.node == OVERALL}
        note = plain_text(" ".join(f"{metric} {value:.4g}" for metric, value in overall.items()))
        if len(report.left_out) >= MANY_NODES:
            note += f" {_NOTED}without {len(report.left_out)} nodes"
        elif report.left_out:
            note += f" {_NOTED}without {', '.join(sorted(report.left_out))}"
        self._note = note
        self._progress.update(self._task, completed=report.round, note=note)
        return None

    def conclude(self, text: str, overall: Mapping[str, float]) -> None:
        """Write the last line: what the result is about. The metrics over all nodes stand in the bar already."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, event: JobEvent) -> None:
        if self._progress is None:
            return
        if event.type == "grant":
            waiting = plain_text(names(event.body.get("waiting")))
            self._progress.update(
                self._task, note=f"{_NOTED}waiting for the owner of {waiting} to approve the plan"
            )
        elif (
            (remark := remark_of(event)) and remark not in self._remarks and len(self._remarks) < MAX_REMARKS
        ):
            self._remarks.add(remark)
            self._progress.console.print(f"{_NOTED}{plain_text(remark)}")
        elif event.type == "ask":
            asked = event.body.get("nodes")
            self._num_asked, self._num_done = len(asked) if isinstance(asked, list) else 0, 0
        elif event.type == "state" and event.node and self._num_asked >= MANY_NODES:
            self._num_done += event.body.get("state") in (State.COMPLETED, State.FAILED)
            done = f"{self._num_done} of {self._num_asked} nodes"
            # first what moves: a narrow terminal cuts the end
            self._progress.update(self._task, note=", ".join(filter(None, (done, self._note))))
        elif event.type == "error" and self._num_asked < MANY_NODES:
            words = plain_text(f"{event.node} is left out: {event.body.get('reason')}")
            self._progress.console.print(f"{_NOTED}{words}")

    def end(self, outcome: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def plain_text(text: str) -> str:
    """Return a text of others as rich shows it as it is: no markup, nothing that steers a terminal."""
    from rich.markup import escape

    return escape(printable(text))


def progress_hook(
    wanted: bool | None, in_notebook: Callable[[], NotebookDisplay]
) -> ProgressBar | NotebookProgress | None:
    """Return what draws progress if it is wanted: None wants it in a terminal or a notebook.

    Args:
        in_notebook: makes the display of the job in a notebook.
    """
    if living_output.in_notebook():
        return None if wanted is False else NotebookProgress(in_notebook())
    if wanted is None:
        wanted = sys.stderr.isatty()
    return ProgressBar() if wanted else None
