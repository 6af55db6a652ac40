"""The ledger of how fast the lines of a researcher and of its nodes were, a file in the home: `lines.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.files import private, write_atomic

OWN = ""
"""The party under which the researcher's own line stands."""
WAYS = ("down", "up")

NEAR_S = 3600.0
"""A line of a past moment is known by a measure that was made within so many seconds of it."""
_MAX_LINES = 4000
_MAX_RATE = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class LineMeasure:
    """Bytes that went over a party's line.

    Args:
        party: a node, or `OWN`.
        way: `down` to the party, or `up` from it.
        size_bytes, seconds: what went, and how long that took.
        at: seconds since 1970.
        job: whose transfers were measured; empty for a check of the line.
    """

    party: str
    way: str
    size_bytes: int
    seconds: float
    at: float
    job: str = ""

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size_bytes / self.seconds


class LineLedger:
    """The measures of lines in a home; processes of one home add to the same file.

    Args:
        home: of the researcher.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "lines.jsonl"

    def add(self, measures: Iterable[LineMeasure]) -> None:
        """Add measures; the oldest go where there are many. Nothing is fsynced: these are figures."""
        text = "".join(json.dumps(asdict(one)) + "\n" for one in measures if _is_measure(asdict(one)))
        if not text:
            return
        with open(self._path, "a", encoding="utf-8", opener=private) as file:
            file.write(text)
        lines = self._path.read_bytes().splitlines(keepends=True)
        if len(lines) > _MAX_LINES:
            write_atomic(self._path, b"".join(lines[-_MAX_LINES // 2 :]))

    def read(self) -> LineHistory:
        """Return the measures, without lines of the file that are none, such as one that a crash has cut."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return LineHistory(())
        found = []
        for line in text.splitlines():
            try:
                plain = json.loads(line)
            except ValueError:
                continue
            if isinstance(plain, dict) and _is_measure(plain):
                found.append(LineMeasure(**plain))
        return LineHistory(found)


def _is_measure(plain: Mapping[str, Any]) -> bool:
    if plain.keys() != set(LineMeasure.__dataclass_fields__) or plain["way"] not in WAYS:
        return False
    numbers = (plain["size_bytes"], plain["seconds"], plain["at"])
    if not all(is_number(one) and math.isfinite(one) and one > 0 for one in numbers):
        return False
    names = isinstance(plain["party"], str) and isinstance(plain["job"], str)
    return names and plain["size_bytes"] / plain["seconds"] < _MAX_RATE


class LineHistory:
    """The measures of several lines, and their rates.

    Args:
        measures: in any order.
    """

    def __init__(self, measures: Iterable[LineMeasure]) -> None:
        self._of: dict[tuple[str, str], list[LineMeasure]] = {}
        for one in measures:
            self._of.setdefault((one.party, one.way), []).append(one)

    def rate(self, party: str, way: str) -> float | None:
        """Return the bytes a second of a party's line, by its newest measure; None where nobody knows.

        Args:
            way: `down` or `up`.
        """
        found = self._of.get((party, way))
        return max(found, key=lambda one: one.at).rate if found else None

    def rate_at(self, party: str, way: str, at: float, job: str) -> float | None:
        """Return the bytes a second of a party's line at a past moment; None where nobody knows.

        By the measure of a job's own transfers, else by the last one before the moment, else by the next one after it.

        Args:
            way: `down` or `up`.
            at: seconds since 1970.
            job: that ran then.
        """
        found = [
            one for one in self._of.get((party, way), []) if one.job == job or abs(one.at - at) <= NEAR_S
        ]
        if not found:
            return None
        best = min(found, key=lambda one: (one.job != job, one.at > at, abs(one.at - at)))
        return best.rate

    def measured_at(self, parties: Iterable[str]) -> float | None:
        """Return when the line of the party that was not measured for the longest was measured last; None for never."""
        newest = [
            max((one.at for way in WAYS for one in self._of.get((party, way), [])), default=None)
            for party in parties
        ]
        known = [one for one in newest if one is not None]
        return min(known) if known and len(known) == len(newest) else None
