"""The texts of plans, kept and cached: what an owner reads is what the node compiles."""

from __future__ import annotations

import hashlib

from fedjob.common.errors import PlanError
from fedjob.common.types import MIN_PREFIX_CHARS
from fedjob.node.storage.database import Database

MAX_RECENT = 32
"""Texts that are remembered without being kept: those of plans that no owner has to approve."""


class PlanTexts:
    """Texts by their sha256, in the node's database and, for a while, in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: dict[str, bytes] = {}

    def keep(self, plan: str, text: bytes) -> None:
        """Keep a plan's text."""
        self._database.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (plan, text))

    def remember(self, sha256: str, text: bytes) -> None:
        """Remember a plan's text for a while, if it is the one that the hash names."""
        if text and sha256 not in self._recent and hashlib.sha256(text).hexdigest() == sha256:
            while len(self._recent) >= MAX_RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[sha256] = text

    def of(self, plan: str) -> bytes | None:
        """Return the bytes of a plan that was asked for or is remembered, checked against their hash."""
        recent = self._recent.get(plan)
        if recent is not None:
            return recent
        row = self._database.row("SELECT text FROM plans WHERE sha256 = ?", (plan,))
        if row is None:
            return None
        text = bytes(row["text"])
        return text if hashlib.sha256(text).hexdigest() == plan else None

    def like(self, words: str) -> list[tuple[str, str]]:
        """Return (sha256, class) of kept texts whose hash begins so, or approved ones whose class is so called.

        A class is named by who wrote it, so a name alone never means a text that nobody approved.
        """
        rows = self._database.rows(
            "SELECT DISTINCT plan, entry FROM grants WHERE length(plan) = 64 AND ((? AND substr(plan, 1, ?) = ?) "
            "OR (entry = ? AND status IN ('granted', 'expired')))",
            (len(words) >= MIN_PREFIX_CHARS, len(words), words, words),
        )
        return [(row["plan"], row["entry"]) for row in rows]


def examine_plan(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Return a plan's text and the packages that this node lacks for it; nothing is executed.

    Raises:
        PlanError: it does not read as it runs, or is no Python.
    """
    from fedjob.training_plans.source.packages import missing_packages
    from fedjob.training_plans.source.text_checks import check_plan_text

    text = check_plan_text(data)
    if text.encode() != data:
        raise PlanError("the plan's text is not in the form that fedjob extracts")
    return text, missing_packages(text)
