"""The living display of a job in a notebook or a terminal: one output that is redrawn while the job goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedjob.common.checks import printable
from fedjob.common.lifecycle import HISTORY
from fedjob.common.notebooks.living_output import Forms, LivingOutput
from fedjob.researcher.monitoring.live import Live
from fedjob.researcher.monitoring.live_view import LiveView
from fedjob.researcher.storage.event import JobEvent, is_job_state

PAUSE_S = 0.25
"""Least time between two drawings; the last one, and each new state of the job, is drawn at once."""


@dataclass
class NotebookDisplay:
    """A view of a job's events below the cell that runs.

    Args:
        title: the job's name and id.
        nodes: returns the nodes that are known by now.
        rounds: of the job.
        draw: shows forms in place of those before.
        clock: seconds since 1970.
    """

    title: str
    nodes: Callable[[], tuple[str, ...]]
    rounds: int
    draw: Callable[[Forms], None] = field(default_factory=lambda: LivingOutput().draw)
    clock: Callable[[], float] = time.time
    overall: Mapping[str, float] = field(default_factory=dict)
    about: str = ""
    _live: Live = field(default_factory=Live)
    _left_out: dict[str, str] = field(default_factory=dict)
    _remark: str = ""
    _drawn: float = 0.0
    _is_stale: bool = True

    def tell(self, event: JobEvent) -> None:
        """Take one event, and draw if it is time."""
        self._live = self._live.after([event])
        match event.type:
            case "error" if event.node:
                self._left_out[event.node] = printable(str(event.body.get("reason") or ""))[:300]
            case "round":
                out = event.body.get("left_out")
                self._left_out = (
                    {printable(str(node)): printable(str(why))[:300] for node, why in (out or {}).items()}
                    if isinstance(out, Mapping)
                    else {}
                )
            case "note":
                self._remark = printable(f"{event.node} {event.body.get('text', '')}".strip())[:300]
            case "grant" if event.body.get("waiting"):
                self._remark = ""
        if is_job_state(event):
            self._remark = ""
        self._is_stale = True
        if is_job_state(event) or self.clock() - self._drawn >= PAUSE_S:
            self.show()

    def conclude(self, about: str, overall: Mapping[str, float]) -> None:
        """Show what the result is about, and its metrics over all nodes."""
        self.about, self.overall = about, dict(overall) or self.overall
        self._is_stale = True
        self.show()

    def close(self) -> None:
        """Draw what has not been drawn yet."""
        if self._is_stale:
            self.show()

    def show(self) -> None:
        """Draw the job as it is now."""
        self._drawn, self._is_stale = self.clock(), False
        self.draw(self.view().forms())

    def view(self) -> LiveView:
        """Return what is shown now."""
        return LiveView(
            title=self.title,
            nodes=self.nodes() or tuple(sorted(set(self._live.nodes) - {""})),
            rounds=self.rounds,
            live=self._live,
            now=self.clock(),
            overall=self.overall,
            left_out=self._left_out,
            about=self.about,
            remark="" if self._live.state in HISTORY else self._remark,
        )
