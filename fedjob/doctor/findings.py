"""The outcome of one check, what to do where it failed, and who can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Who = Literal["", "you", "your IT", "the hub's owner", "the node's owner"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        check: what was looked at, in a word or two.
        found: what was found, good or bad.
        advice: what to do about it; may stand with a good one, where something will soon be bad.
        who: the one that can do it; empty for whoever asked.
    """

    check: str
    ok: bool
    found: str
    advice: str = ""
    who: Who = ""


def rows_of(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Return findings as the rows of a table or of JSON."""
    return [{"check": f.check, "ok": f.ok, "found": f.found, "do": f.advice, "who": f.who} for f in findings]
