"""The node hook that appends the events of tasks to a CSV file."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import ClassVar

from fedjob.common.errors import SpecError
from fedjob.common.files import private
from fedjob.node.hooks.base import NodeEvent, NodeHook, TaskHandle

COLUMNS = (
    "time",
    "event",
    "researcher",
    "project",
    "job",
    "job_name",
    "dataset",
    "round",
    "step",
    "task",
    "body",
)


@dataclass(frozen=True, slots=True)
class Csv(NodeHook):
    """A CSV file with a row for each event.

    Args:
        events: patterns of moments and event types, separated by spaces, such as `task.* batch.done`.
        file: name of the file in the node's `hooks` folder, without folders.
    """

    events: str = "batch.done"
    file: str = "events.csv"

    name: ClassVar[str] = "csv"

    def __post_init__(self) -> None:
        if PurePath(self.file).name != self.file or not self.file:
            raise SpecError(f"file is a name without folders, not {self.file!r}")

    def event(self, event: NodeEvent, task: TaskHandle) -> None:
        called = event.moment or event.type
        if not any(fnmatchcase(name, p) for p in self.events.split() for name in {called, event.type}):
            return
        path = task.folder / self.file
        is_new = not path.exists()
        with open(path, "a", newline="", encoding="utf-8", opener=private) as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
            about = (task.researcher, task.project, task.job, task.job_name, task.dataset)
            row = (when, called, *about, task.round, task.step, task.key, json.dumps(event.body, default=str))
            writer.writerow([_harmless(cell) for cell in row])


def _harmless(cell: object) -> object:
    """Return a cell that no spreadsheet runs as a formula, because researchers choose some texts."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
