"""A sign on stderr that something that takes long still goes on: a line that is redrawn, or in a pipe one now and then."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedjob.common.checks import printable
from fedjob.common.terminal.tables import width_of

AFTER_S = 1.0
"""What takes no longer than this shows nothing."""

REDRAWN_S = 0.5
LINE_S = 5.0
"""Between two lines in a pipe or a log."""

_CLEAR = "\r\x1b[K"


class GoingOn:
    """The sign of one thing that goes on.

    Args:
        what: goes on, such as `reading images/`.
        after_s: nothing is shown before.
        every_s: time between two signs.
    """

    def __init__(self, what: str, after_s: float, every_s: float) -> None:
        self._what = printable(what)
        self._began = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_drawn = False
        self._thread = threading.Thread(
            target=self._go_on, args=(after_s, every_s), name="going on", daemon=True
        )
        self._thread.start()

    def say(self, text: str) -> None:
        """Print a line to stderr without leaving a part of the sign beside it."""
        with self._lock:
            self._erase()
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Take the sign away."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._erase()

    def _go_on(self, after_s: float, every_s: float) -> None:
        pause = after_s
        while not self._ended.wait(pause):
            pause = every_s
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        passed = f": {time.monotonic() - self._began:.0f} s"
        if not self._is_terminal:
            sys.stderr.write(f"fedjob: {self._what}{passed} so far\n")
        else:
            room = max(10, shutil.get_terminal_size().columns - len(passed) - 1)
            what = self._what
            while width_of(what) > room:  # a line that goes on below could not be erased
                what = what[:-2] + "\u2026"
            sys.stderr.write(f"{_CLEAR}{what}{passed}")
            self._is_drawn = True
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._is_drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self._is_drawn = False


@contextmanager
def still_going_on(what: str, *, after_s: float | None = None) -> Iterator[GoingOn]:
    """Show on stderr that something goes on, in a terminal from the first second on, elsewhere every few seconds.

    Args:
        what: goes on, such as `reading images/`.
        after_s: nothing is shown before; by default a second, or in a pipe five.
    """
    is_terminal = sys.stderr.isatty()
    after_s = (AFTER_S if is_terminal else LINE_S) if after_s is None else after_s
    sign = GoingOn(what, after_s, REDRAWN_S if is_terminal else LINE_S)
    try:
        yield sign
    finally:
        sign.end()
