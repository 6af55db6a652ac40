"""The texts of the plans that were asked for: what an owner reads is what the node compiles."""

from __future__ import annotations

import hashlib

from fedjob.node.database import Database


class PlanTexts:
    """Texts by their sha256, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, plan: str, text: bytes) -> None:
        """Keep a plan's text."""
        self._database.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (plan, text))

    def of(self, plan: str) -> bytes | None:
        """Return the bytes of a plan that was asked for, checked against their hash."""
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
            "SELECT DISTINCT plan, entry FROM grants WHERE length(plan) = 64 AND (substr(plan, 1, ?) = ? "
            "OR (entry = ? AND status IN ('granted', 'expired')))",
            (len(words), words, words),
        )
        return [(row["plan"], row["entry"]) for row in rows]
