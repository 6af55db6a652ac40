"""The record of what left a node with answers: when, for whom, of which data, how many bytes and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedjob.node.storage.database import Database

MAX_READ = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """One answer that left.

    Args:
        seq: of its record in the audit log.
        at: seconds since 1970.
        task: key of the task; empty for a masked contribution to a secure sum.
        use: of the data, `private` or `mock`; `brought` where a researcher brought them.
        num_bytes: of the answer and of the objects that it names.
        num_numbers: in its values and metrics.
        parameters_bytes: of trained parameters, or of a masked contribution.
        is_masked: of it alone nobody can read anything; only the sum over nodes becomes known.
    """

    seq: int
    at: float
    task: str
    job: str
    researcher: str
    dataset: str
    use: str
    round: int
    step: str
    state: str
    num_bytes: int
    num_numbers: int
    parameters_bytes: int
    is_masked: bool


@dataclass(frozen=True, slots=True)
class DepartureTotals:
    """What several answers are together."""

    answers: int
    num_bytes: int
    num_numbers: int


def departures(database: Database, *, since: float = 0.0, limit: int = MAX_READ) -> list[Departure]:
    """Return what left since a time, the newest first.

    Args:
        since: seconds since 1970.
        limit: most that are returned.
    """
    rows = database.rows(
        "SELECT seq, at, kind, subject, body FROM audit WHERE kind IN ('task', 'sum') AND at >= ? "
        "AND instr(body, '\"departure\":') ORDER BY seq DESC LIMIT ?",
        (since, limit),
    )
    return [_departure(row) for row in rows]


def totals_of(found: Iterable[Departure]) -> DepartureTotals:
    """Return what departures are together."""
    every = list(found)
    return DepartureTotals(
        len(every), sum(one.num_bytes for one in every), sum(one.num_numbers for one in every)
    )


def _departure(row: Any) -> Departure:
    body = json.loads(row["body"])
    left = body["departure"]
    return Departure(
        seq=int(row["seq"]),
        at=float(row["at"]),
        task=str(row["subject"]) if row["kind"] == "task" else "",
        job=str(body["job"]),
        researcher=str(body["researcher"]),
        dataset=str(body["dataset"]),
        use=str(left["use"]),
        round=int(body["round"]),
        step=str(body["step"]),
        state=str(body["state"]),
        num_bytes=int(left["bytes"]),
        num_numbers=int(left["numbers"]),
        parameters_bytes=int(left.get("parameters_bytes", 0)),
        is_masked=row["kind"] == "sum",
    )
