"""The hook that keeps the counts of a job's messages and objects in its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from fedjob.common.errors import DecodeError
from fedjob.common.files import private
from fedjob.messaging.traffic import Tally, Traffic, from_csv, to_csv, together
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position

EVERY_S = 1.0
"""Time between two writes while the job runs."""


class Counting(Hook):
    """The writer of `traffic.csv`; a further attempt adds to the file.

    Args:
        traffic: the counters of the session's endpoint.
    """

    name: ClassVar[str] = "counting"

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._folder: JobFolder | None = None
        self._sum: tuple[Tally, ...] = ()
        self._written = 0.0

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._folder = folder
        self._sum = read_traffic(folder)

    def event(self, event: JobEvent) -> None:
        if event.type in ("state", "round") and time.monotonic() - self._written >= EVERY_S:
            self._write()

    def end(self, outcome: str) -> None:
        self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        self._written = time.monotonic()
        self._sum = together(self._sum, self._traffic.take(self._folder.path.name))
        temporary = self._folder.traffic.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8", opener=private) as file:
            file.write(to_csv(self._sum))
        os.replace(temporary, self._folder.traffic)  # not fsynced: figures, not truth


def read_traffic(folder: JobFolder) -> tuple[Tally, ...]:
    """Return the counts of a job; none for a job without any, such as a local one."""
    try:
        return from_csv(folder.traffic.read_text(encoding="utf-8"))
    except (FileNotFoundError, DecodeError):
        return ()
