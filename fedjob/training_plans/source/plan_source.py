"""The source of a plan: the text that travels, and the hash that identifies it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

SOURCE_ATTRIBUTE = "__fedjob_source__"
"""Of a compiled class: the source that it was made of."""


Origins = tuple[tuple[str, int], ...]
"""For each line of a text the file or cell and the line where its user wrote it; ("", 0) for none."""


@dataclass(frozen=True)
class PlanSource:
    """A plan as it travels.

    Args:
        text: Python that needs nothing but what it imports.
        entry: the name of the class in it.
        sha256: of the text in UTF-8: what an owner approves.
        origins: of its lines, where it was extracted here; they do not travel.
    """

    text: str
    entry: str
    sha256: str
    origins: Origins = field(default=(), compare=False, repr=False)


def plan_hash(text: str) -> str:
    """Return what identifies a plan's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def line_words(line: int, origins: Origins) -> str:
    """Return the words for a line of a plan's text: the user's own file and line where they are known."""
    label, number = origins[line - 1] if 0 < line <= len(origins) else ("", 0)
    return f"{label}, line {number}" if label else f"line {line} of the plan"
