"""Colours of a terminal that say how a word is meant: good, busy, waiting, bad. The word says it, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

GOOD, BUSY, WAITING, BAD = "38;5;29", "38;5;32", "38;5;136", "38;5;196"
"""Green, blue, amber and red of the 256 that are the same in every scheme: each can be read on white and on black.

Of the sixteen that a scheme sets for itself, yellow and cyan can hardly be read on a light background.
"""

BOLD = "1"

COLUMNS = frozenset(("state", "status", "verdict", "grant", "ok", "online"))
"""Columns whose cells mean something good or bad."""

_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("completed", "approved", "equal", "ok", "yes", "spent", "done", "answered"), GOOD),
    **dict.fromkeys(("starting", "running", "stopping", "asked"), BUSY),
    **dict.fromkeys(("waiting", "queued", "pending", "waits", "reserved"), WAITING),
    **dict.fromkeys(
        ("failed", "killed", "lost", "rejected", "unschedulable", "revoked", "expired", "different", "no"),
        BAD,
    ),
    **dict.fromkeys(("refused", "left", "bad"), BAD),
}


def colour_of(column: str, cell: str) -> str:
    """Return the colour of a cell by its first word; empty for none."""
    if column not in COLUMNS:
        return ""
    first = cell.split(maxsplit=1)[0] if cell.strip() else ""
    return _WORDS.get(first.rstrip(":,;").lower(), "")


def rich_style(colour: str) -> str:
    """Return a colour as the package rich names it."""
    return f"color({colour.rpartition(';')[2]})"


def painted(text: str, colour: str) -> str:
    """Return a text in a colour, or as it is for none."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def has_colours(out: TextIO) -> bool:
    """Tell whether colours are wanted there: a terminal that knows them, and no `NO_COLOR` (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
