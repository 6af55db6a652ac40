"""Faults by a script: what goes wrong, how often and where; drawn from a seed, and counted."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

TCP_FAULTS = ("refuse", "cut", "reset", "half_close", "blackhole", "flip_bytes")
"""Of a connection: refused at once, ended, reset, closed in one direction, silent, or with a wrong bit, after some bytes."""

HTTP_FAULTS = (
    "status",
    "busy",
    "hang_up",
    "lose_answer",
    "send_twice",
    "truncate",
    "shorter_length",
    "longer_length",
    "flip_answer",
    "flip_request",
    "drip",
    "redirect",
    "stale",
    "other_object",
    "portal",
)
"""Of a request and its answer; see `tests.faults.http`."""

MQTT_FAULTS = (
    "drop",
    "duplicate",
    "reorder",
    "delay",
    "corrupt",
    "replay",
    "garble",
    "disconnect",
    "lose_ack",
)
"""Of a packet; see `tests.faults.mqtt`."""

KINDS = (*TCP_FAULTS, *HTTP_FAULTS, *MQTT_FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault.

    Args:
        kind: one of `KINDS`.
        rate: share of the occasions that it strikes, from 0 to 1.
        after: number of occasions that it spares at first.
        most: times that it strikes; None for no end.
        where: regular expression that an occasion has to match, such as `GET /v1/objects` or `PUBLISH up`.
        num: bytes until it strikes (TCP), the status that is answered (`status`), or packets back (`replay`).
        seconds: of a delay, a drip, or until the client may ask again.
    """

    kind: str
    rate: float = 1.0
    after: int = 0
    most: int | None = None
    where: str = ""
    num: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {self.kind!r}")


class Script:
    """The faults of one way to the hub; usable from several threads.

    The same seed and the same occasions in the same order give the same faults.
    """

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int = 0) -> None:
        self.faults = tuple(faults)
        self.seen: Counter[str] = Counter()
        """Occasions, by the first word of where they were."""
        self.done: Counter[str] = Counter()
        """Faults that happened, by kind."""
        self._occasions: Counter[Fault] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self, kinds: tuple[str, ...], where: str) -> Fault | None:
        """Return the fault that strikes at this occasion, the first of the script that does."""
        with self._lock:
            self.seen[where.partition(" ")[0]] += 1
            for fault in self.faults:
                if fault.kind not in kinds or not re.search(fault.where, where):
                    continue
                self._occasions[fault] += 1
                struck = self._random.random() < fault.rate and self._occasions[fault] > fault.after
                if struck and (fault.most is None or self.done[fault.kind] < fault.most):
                    return fault
            return None

    def count(self, fault: Fault) -> None:
        """Take note that a fault has happened."""
        with self._lock:
            self.done[fault.kind] += 1

    def pick(self, upto: int) -> int:
        """Return a number from 0 to `upto` - 1."""
        with self._lock:
            return self._random.randrange(max(1, upto))
