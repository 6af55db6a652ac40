"""The interface of hooks, which run on the researcher's side at the end of every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fedjob.researcher.storage.event import JobEvent
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.measurements import Measurement
    from fedjob.researcher.storage.position import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """The report of a committed round that hooks receive.

    Args:
        round: its number.
        rounds: number of rounds that the job is for.
        position: where the job stands now; its `rows` are the whole history.
        rows: this round's measurements.
        left_out: node -> reason.
        seconds: duration of the round.
    """

    round: int
    rounds: int
    position: Position
    rows: tuple[Measurement, ...]
    left_out: Mapping[str, str]
    seconds: float


class Hook:
    """Override what you need; each method's default does nothing.

    A hook that must survive a resume computes from `report.position.rows`, which
    does, or names files in `files`, which travel in every breakpoint.
    """

    name: ClassVar[str] = "hook"

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        """Prepare. `extras`: the files that a breakpoint brought along for hooks."""

    def round_done(self, report: RoundReport) -> str | None:
        """Use a committed round; return a reason to end the job here, or None."""
        return None

    def event(self, event: JobEvent) -> None:
        """Use an event as it happens."""

    def files(self) -> Mapping[str, Path]:
        """Return name -> file that every breakpoint should hold."""
        return {}

    def end(self, outcome: str) -> None:
        """The job is over: `completed`, `failed`, ..."""
