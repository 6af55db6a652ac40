"""Slow lines between nodes and a server (`tests/faults/line.py`), and what they carried until when."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.faults.line import FaultyLine, LineProperties
from tests.faults.script import Script
from tests.faults.serving import LoopThread

LOOK_S = 0.02


class Lines:
    """A line for each of so many nodes to a port of loopback, as a context manager."""

    def __init__(self, count: int, port: int, mbit: float) -> None:
        self._loop = LoopThread()
        self._count, self._port, self._mbit = count, port, mbit
        self.lines: list[FaultyLine] = []

    def __enter__(self) -> Lines:
        self._loop.__enter__()
        self.lines = [FaultyLine(self._loop, self._port) for _ in range(self._count)]
        for line in self.lines:
            line.become(LineProperties(bits_per_s=self._mbit * 1e6), Script())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.__exit__(kind, error, trace)


class Carried:
    """What lines have carried, looked at every so often in a thread of its own."""

    def __init__(self, lines: Iterable[FaultyLine]) -> None:
        self._lines = list(lines)
        self._seen: list[tuple[float, int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Carried:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def of_a_round(self, ends: Sequence[float]) -> Mapping[str, float]:
        """Return the bytes to and from a node in a round, the mean of all rounds but the first.

        Args:
            ends: of the rounds, in seconds since 1970.
        """
        first, last = self._at(ends[0]), self._at(ends[-1])
        shares = (len(ends) - 1) * len(self._lines)
        return {"down": (last[0] - first[0]) / shares, "up": (last[1] - first[1]) / shares}

    def _at(self, when: float) -> tuple[int, int]:
        """Return what had been carried down and up at a time: at the last look before it."""
        return next(((down, up) for seen, down, up in reversed(self._seen) if seen <= when), (0, 0))

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            down, up = (
                sum(line.num_bytes(direction) for line in self._lines) for direction in ("down", "up")
            )
            self._seen.append((time.time(), down, up))
