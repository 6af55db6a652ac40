"""Lines of a terminal that are drawn again in their place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TextIO

from fedjob.common.terminal.colours import has_colours

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_TO_END = "\x1b[J"


class Redrawn:
    """A few lines at the end of a terminal, each drawing in the place of the one before.

    Args:
        out: a terminal.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._before: list[str] = []
        self.colours = has_colours(out)

    @property
    def width(self) -> int:
        """Columns that may be written: one less than there are, so that no line goes on in the next."""
        return max(20, shutil.get_terminal_size().columns - 1)

    def draw(self, lines: Sequence[str]) -> None:
        """Draw lines of at most `width`; more of them than the terminal is high are cut below."""
        height = max(2, shutil.get_terminal_size().lines - 1)
        shown = (
            list(lines)
            if len(lines) <= height
            else [*lines[: height - 1], f"... {len(lines) - height + 1} more lines"]
        )
        if shown == self._before:
            return
        up = f"\x1b[{len(self._before)}F" if self._before else _HIDE
        self._out.write(up + _TO_END + "".join(f"{line}\n" for line in shown))
        self._out.flush()
        self._before = shown

    def close(self) -> None:
        """Let the lines stand, and what comes next go below them."""
        if self._before:
            self._out.write(_SHOW)
            self._out.flush()
        self._before = []
