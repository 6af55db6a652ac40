"""Outages of the hub or of the researcher's own line: time stands still for the nodes, and work is tried again.

While the researcher is cut off, no node can give a sign of life, so no lease, deadline or limit of a round runs. An
outage ends by itself; it is blamed on nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fedjob.common.errors import FedjobError, RepositoryUnreachable
from fedjob.identity.membership import hub_of
from fedjob.researcher.connection.connection import Connection

MAX_OUTAGE_S = 24 * 3600.0
"""A hub that is away for longer fails the job, which can be resumed."""

LOOK_S = 1.0
PROBE_EVERY_S = 3.0

T = TypeVar("T")


class LineClock:
    """Seconds in which the researcher was connected; it stands still during outages. Pure.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._lost = 0.0
        self._down_at: float | None = None
        self._began = now

    def now(self, now: float) -> float:
        """Return the time of this clock."""
        return (now if self._down_at is None else self._down_at) - self._lost

    @property
    def is_down(self) -> bool:
        """True if the connection was down at the last look."""
        return self._down_at is not None

    def look(self, now: float, *, up: bool) -> float | None:
        """Take note of the connection; return for how long it was away where it has just come back."""
        if up and self._down_at is not None:
            away_s = now - self._down_at
            self._lost += away_s
            self._down_at = None
            return away_s
        if not up and self._down_at is None:
            self._down_at = now
        return None

    def away_s(self, now: float) -> float:
        """Return for how long the connection has been away by now."""
        return 0.0 if self._down_at is None else now - self._down_at


def hub_answers(connection: Connection) -> bool:
    """Return whether the hub answers at all: then trouble with an object is no outage."""
    membership = connection.membership
    try:
        hub_of(membership)
    except FedjobError:
        return False
    return True


def through_outages(
    action: Callable[[], T],
    answers: Callable[[], bool],
    *,
    check: Callable[[], object],
    tell: Callable[[str], object] = lambda text: None,
    max_outage_s: float = MAX_OUTAGE_S,
    probe_every_s: float = PROBE_EVERY_S,
) -> T:
    """Do what needs the hub; while that does not answer at all, wait and do it again.

    A hub that answers when it is asked whether it does may have come back just then: it is given one more try.

    Args:
        answers: returns whether the hub answers.
        check: called every second; raises what ends the wait.
        tell: is given a line when an outage begins and when it ends.

    Raises:
        RepositoryUnreachable: it answers and is in trouble, twice running, or was away for too long.
    """
    began: float | None = None
    has_answered = False
    while True:
        try:
            done = action()
        except RepositoryUnreachable as error:
            if answers():
                if has_answered:
                    raise
                has_answered = True
                check()
                continue
            has_answered = False
            if began is None:
                began = time.monotonic()
                tell(f"the hub does not answer; the job waits for it: {error}")
            while not answers():
                if time.monotonic() - began > max_outage_s:
                    raise
                again = time.monotonic() + probe_every_s
                while time.monotonic() < again:
                    check()
                    time.sleep(min(LOOK_S, probe_every_s))
            continue
        if began is not None:
            tell(f"the hub answers again after {time.monotonic() - began:.0f} s")
        return done
