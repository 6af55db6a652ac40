"""The reports of tasks' states to researchers, held back shortly: a task that completes at once needs none.

A short round is answered in milliseconds, and the answer says it all; three messages
about the way there would cost more than the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fedjob.common.lifecycle import HISTORY, State
from fedjob.node.queue.book import TaskRow

HOLD_S = 0.25
"""No states are reported of a task that completes within this time: its answer is enough."""


class StateReports:
    """The states of tasks that are held back before they are reported."""

    def __init__(self) -> None:
        self._held: dict[str, list[TaskRow]] = {}
        self._due: dict[str, float] = {}
        self._reported: set[str] = set()
        self.reached: Counter[str] = Counter()
        """How many tasks reached each state since the daemon started."""

    def take(self, rows: Iterable[TaskRow], now: float) -> list[TaskRow]:
        """Return the rows whose states are to be reported now, in order.

        Args:
            rows: tasks in states that they have just reached.
            now: monotonic seconds.
        """
        reports: list[TaskRow] = []
        for row in rows:
            key = row.key
            self.reached[str(row.state)] += 1
            passing = (
                row.state not in HISTORY and row.state != State.STOPPING
            )  # a stop is news, however short
            if passing and key not in self._reported:
                self._held.setdefault(key, []).append(row)
                self._due.setdefault(key, now + HOLD_S)
                continue
            held = self._held.pop(key, [])
            self._due.pop(key, None)
            if row.state == State.COMPLETED and not row.parent and key not in self._reported:
                continue  # its answer is report enough
            reports += [*held, row]
            if row.state in HISTORY:
                self._reported.discard(key)
            else:
                self._reported.add(key)
        return reports

    def due(self, now: float) -> list[TaskRow]:
        """Return what has been held long enough."""
        reports: list[TaskRow] = []
        for key in [key for key, at in self._due.items() if at <= now]:
            del self._due[key]
            reports += self._held.pop(key)
            self._reported.add(key)
        return reports

    def next_due(self) -> float | None:
        """Return when `due` has something, in monotonic seconds."""
        return min(self._due.values(), default=None)
