"""The pulse of a daemon: what it last published of itself, and when its loop last turned; read by another thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Pulse:
    """Facts that the daemon's thread replaces as a whole, so that any thread may read them."""

    def __init__(self) -> None:
        self.beaten_at = time.monotonic()
        self.facts: Mapping[str, Any] = {}
        self.reached: Mapping[str, int] = {}

    def beat(self, now: float) -> None:
        """Note that the loop turns. `now`: monotonic seconds."""
        self.beaten_at = now

    def take(self, facts: Mapping[str, Any], reached: Mapping[str, int]) -> None:
        """Replace the facts.

        Args:
            facts: as `fedjob node status` shows them.
            reached: state -> how many tasks reached it since the start.
        """
        self.beat(time.monotonic())
        self.facts = facts
        self.reached = dict(reached)
