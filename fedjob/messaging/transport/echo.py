"""The echo by which a party notices a connection that stands and carries nothing.

A broker that has stopped delivering, because acknowledgements got lost or its queue is full, and a box on the way that
has forgotten a connection, answer pings or stay silent, but close nothing. So a party sends itself a few bytes now and
then. Where they stop coming back, the connection is broken off and made anew, and what was lost is sent again.
"""

from __future__ import annotations

ECHO = b"echo"
EVERY_S = 20.0
"""Between echoes that come back: less than the minute after which boxes on the way forget a connection."""

AGAIN_S = 5.0
"""Until another one, where the last has not come back: a single one may be lost."""

DEAF_S = 25.0
"""Without any echo after the first that was missed: then the connection carries nothing."""


class EchoWatch:
    """The echoes of one connection. Pure: all times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._works = False  # a broker that forbids messages to oneself returns none, ever
        self._due: float | None = None
        self._missing_since: float | None = None

    def connected(self, now: float) -> None:
        """Begin with a connection that has just come about."""
        self._due, self._missing_since = now, None

    def lost(self) -> None:
        """Wait for the next connection."""
        self._due = self._missing_since = None

    def take_due(self, now: float) -> bool:
        """Return whether to send an echo now."""
        if self._due is None or now < self._due:
            return False
        if self._missing_since is None:
            self._missing_since = now
        self._due = now + AGAIN_S
        return True

    def came_back(self, now: float) -> None:
        """Take note of an echo."""
        self._works = True
        if self._due is not None:
            self._due, self._missing_since = now + EVERY_S, None

    def is_deaf(self, now: float) -> bool:
        """Return whether the connection carries nothing any more."""
        return self._works and self._missing_since is not None and now - self._missing_since >= DEAF_S
