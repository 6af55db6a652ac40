"""One turn of the daemon's loop: the changes that it commits, and the actions after the commit; the reports that are taken."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fedjob.messaging.messages import Message
from fedjob.messaging.outbox import Outgoing
from fedjob.node.grants.permissions import Charge
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book
from fedjob.node.queue.task_machine import step
from fedjob.privacy.secagg.node_session import NodeSession

SOON_S = 0.05
"""How long a report that is put `soon` waits for a turn that something else begins."""

R = TypeVar("R")


class Reports(Generic[R]):
    """What threads, workers and handlers report to the daemon's loop.

    Args:
        wake: begins a turn; called from any thread.
        clock: seconds.
    """

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._reports: queue.SimpleQueue[R] = queue.SimpleQueue()
        self._soon: list[R] = []
        self._due: float | None = None

    def put(self, report: R) -> None:
        """Report something from any thread, which begins a turn."""
        self._reports.put(report)
        self._wake()

    def put_soon(self, report: R) -> None:
        """Report something, from the loop, that is taken with the next turn and begins one only where none comes shortly.

        In a round of milliseconds a worker's beginning is taken with what it returns: one turn instead of two.
        """
        self._soon.append(report)
        if self._due is None:
            self._due = self._clock() + SOON_S

    def take(self) -> list[R]:
        """Return all that was reported and not taken, what was put `soon` first."""
        taken, self._soon, self._due = self._soon, [], None
        while not self._reports.empty():
            taken.append(self._reports.get_nowait())
        return taken

    def next_due(self) -> float | None:
        """Return when a turn has to begin for what was put `soon`; None where there is none."""
        return self._due


@dataclass
class Turn:
    """The changes that one turn will commit, and the actions that follow the commit.

    Args:
        book: as it will be.
        outgoing: messages that are sent after the commit, the lasting ones committed too.
        forgettable: ids of outgoing messages that are the first to go where there are many: the sender asks again.
        settled: messages that are dealt with.
        rows: further changes of the database.
        after: what is done when the commit is through.
        predicted: grant -> predictions that are counted with this commit.
        sums: digest of its terms -> session of a secure sum, as it will be.
        ended: jobs whose secure sums are forgotten with the commit.
        kept: maps that the handlers have changed, with what was in them before.
        committed: it is done, whatever comes of the actions after the commit.
    """

    book: Book
    commands: list[events.Command] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    forgettable: list[str] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)
    rows: list[Callable[[], None]] = field(default_factory=list)
    after: list[Callable[[], object]] = field(default_factory=list)
    predicted: dict[str, int] = field(default_factory=dict)
    sums: dict[bytes, NodeSession] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    kept: list[tuple[dict[Any, Any], dict[Any, Any]]] = field(default_factory=list)
    committed: bool = False

    def step(self, event: events.Event) -> list[events.Command]:
        """Advance the task machine by one event, and return its commands."""
        self.book, commands = step(self.book, event)
        self.commands += commands
        return commands

    def charge(self, charge: Charge) -> None:
        """Count what a finished task costs with the commit."""
        if charge.count is not None:
            self.predicted[charge.payer] = self.predicted.get(charge.payer, 0) + charge.predictions
            self.rows.append(charge.count)

    def keep(self, waiting: dict[Any, Any]) -> None:
        """Note what a map holds that a handler is about to change: a commit that fails brings it back."""
        if all(changed is not waiting for changed, _ in self.kept):
            self.kept.append((waiting, dict(waiting)))

    def bring_back(self) -> None:
        """Undo what the handlers changed: the turn was not committed, so nothing has happened."""
        for waiting, before in self.kept:
            waiting.clear()
            waiting.update(before)

    @property
    def empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.commands or self.outgoing or self.settled or self.rows or self.after)
