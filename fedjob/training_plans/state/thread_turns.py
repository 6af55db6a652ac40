"""Turns: what one thread of a process does at a time, because it uses something that the whole process has but once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_S = 0.25
"""Time after which a thread that waits for its turn can be interrupted."""


class ThreadTurn:
    """The turn of one thread of this process; whoever has it may take it again."""

    def __init__(self) -> None:
        self._begin_anew()
        os.register_at_fork(
            after_in_child=self._begin_anew
        )  # the thread that has it is not in a forked process

    def _begin_anew(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the turn inside the block, once no other thread has it."""
        lock = self._lock
        while not lock.acquire(
            timeout=_LOOK_S
        ):  # it has a deadline as much as what the other thread does has one
            pass
        try:
            yield
        finally:
            lock.release()
