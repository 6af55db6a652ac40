"""The timing of rounds: the next one begins at once, or every so many seconds, until the owner stops the job.

A job with `every_s` goes on where it is only waiting for something new: a round in which no node
has enough new items is no failure, it is asked for again at the next turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedjob.common.errors import JobStopped, QuorumNotReached
from fedjob.protocols.base import Ask, Gathered
from fedjob.protocols.step_inputs import TURN
from fedjob.researcher.storage.inbox import STOP
from fedjob.researcher.storage.position import Position

OWNER_STOPPED = "its owner stopped it"

LOOK_S = 0.5
"""Time between two looks whether the owner wants the job to stop."""

Gather = Callable[[Ask, Position], tuple[Gathered, Position]]


@dataclass
class RoundTimer:
    """The timer that begins rounds at their time.

    Args:
        every_s: from the beginning of a round to that of the next, at least; None begins it at once.
        rest: waits for so many seconds while messages of nodes are received.
        is_stopped: returns whether the owner wants the job to end.
        tell: adds a note to the job's events.
    """

    every_s: float | None
    rest: Callable[[float], None]
    is_stopped: Callable[[], bool]
    tell: Callable[[str], object]
    _round: int = -1
    _began: float = 0.0

    def gather(self, gather: Gather, ask: Ask, position: Position) -> tuple[Gathered, Position]:
        """Carry out an ask when its round's time has come, and again while no node has anything new.

        Raises:
            JobStopped: the owner stopped the job, and the round has not begun.
        """
        if self.every_s is None:
            return gather(ask, position)
        if self._round == position.round:  # a later ask of a round that has begun
            return gather(ask, position)
        asked, turns = ask, 0
        while True:
            self._await_turn()
            self._began = time.monotonic()
            try:
                found = gather(asked, position)
            except QuorumNotReached as error:
                if not nothing_new(error):
                    raise
            else:
                self._round = position.round
                return found
            if not turns:
                self.tell(f"no node has enough that is new; looking again every {self.every_s:g} s")
            turns += 1
            asked = replace(ask, shared={**ask.shared, TURN: turns})

    def _await_turn(self) -> None:
        if not self._began:  # the first round of this process
            return
        while (left := self._began + (self.every_s or 0.0) - time.monotonic()) > 0:
            if self.is_stopped():
                raise JobStopped(STOP)
            self.rest(min(left, LOOK_S))
        if self.is_stopped():
            raise JobStopped(STOP)


def nothing_new(error: QuorumNotReached) -> bool:
    """Return whether a round failed only because nodes have no new items, or fewer than an owner allows."""
    words = {reason.partition(":")[0] for reason in error.left_out.values()}
    return bool(words) and words <= {"no_new_data", "min_rows"}
