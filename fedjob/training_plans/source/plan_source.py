"""The source of a plan: the text that travels, and the hash that identifies it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SOURCE_ATTRIBUTE = "__fedjob_source__"
"""Of a compiled class: the source that it was made of."""


@dataclass(frozen=True)
class PlanSource:
    """A plan as it travels.

    Args:
        text: Python that needs nothing but what it imports.
        entry: the name of the class in it.
        sha256: of the text in UTF-8: what an owner approves.
    """

    text: str
    entry: str
    sha256: str


def plan_hash(text: str) -> str:
    """Return what identifies a plan's text."""
    return hashlib.sha256(text.encode()).hexdigest()
