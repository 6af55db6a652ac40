"""The presence of parties at a broker: a hint that each daemon repairs, and by which it notices a second one of its name.

A daemon's announcement is retained: `1` and the instance of the process, and `0` as its last will. The will of an
earlier connection may come minutes after a new one stands, so a daemon that sees its own `0` says `1` again. A `1` of
another instance is a second daemon under the same name, such as one on a copied home: both see the other's.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

ANNOUNCE_EVERY_S = 60.0
"""A daemon announces itself so often, whatever it sees: a lost announcement is made up for."""

TWIN_FOR_S = 2.5 * ANNOUNCE_EVERY_S
"""So long after its last announcement a second daemon counts as being there."""

MAX_INSTANCES = 100


class PresenceBoard:
    """The presence of other parties as a process knows it, and what it says of its own."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self.instance = secrets.token_hex(8)
        self._wall = wall
        self._lock = threading.Lock()
        self._present: dict[str, bool] = {}
        self._answered: set[str] = set()
        self._twin_seen = 0.0

    def announcement(self, *, present: bool) -> bytes:
        """Return what to publish, retained, about this process."""
        return f"{int(present)} {self.instance}".encode()

    def parties(self) -> dict[str, bool]:
        """Return party -> whether it announced that it is connected."""
        with self._lock:
            return dict(self._present)

    @property
    def twin_seen(self) -> float:
        """When another daemon of this party was seen last, seconds since 1970; 0 for never."""
        return self._twin_seen

    def take(self, party: str, payload: bytes) -> None:
        """Take note of an announcement."""
        with self._lock:
            self._present[party] = payload[:1] == b"1"

    def note(self, party: str) -> None:
        """Take note of a party that gave a sign of life."""
        with self._lock:
            self._present[party] = True

    def take_own(self, payload: bytes) -> bool:
        """Take an announcement under this party's name; return whether this process has to announce itself again."""
        word, _, instance = payload.decode("ascii", "replace").partition(" ")
        if instance == self.instance:
            return word != "1"
        if word != "1":  # the last will of an earlier connection, or a second daemon that left
            return True
        self._twin_seen = self._wall()
        is_new = instance not in self._answered
        if len(self._answered) >= MAX_INSTANCES:
            self._answered.clear()
        self._answered.add(instance)
        return is_new  # once, so that the other sees it too; two that answered each time would never end
