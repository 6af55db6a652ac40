"""The ledger of how fast finished tasks went at this node: training by the kind of work, transfers, and the rest of a round.

It is what the node lets researchers know who ask what a job would cost, where its owner has left `publish_speed` on. Tasks
under differential privacy are not in it: the time that their training took may tell of a record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fedjob.node.storage.database import Database
from fedjob.repository.line_meter import LEAST_BYTES

_KEPT_JOBS = 1000
_NEWEST_JOBS = 20
"""Jobs by which a speed is judged, the newest ones."""
_KEPT_OF_LINE = 0.7
"""The part of what a job's transfers have weighed so far that stays with each further one: a line changes within a job."""
_LINE = "line"
"""In place of a job, where the line was checked by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpeed:
    """The time of one finished task, in its parts.

    Args:
        work: hash of what all tasks of its kind have in common.
        model: hash of the arguments of its model.
        examples: that it trained on, each as often as it came up; 0 for not known.
        trained_s: seconds of training and validation.
        fetched, fetch_s: bytes that came over the line, and the seconds in which they came.
        stored, store_s: bytes that left, and their seconds.
        other_s: all other seconds of it at this node: its start, its data, its checks.
    """

    job: str
    work: str
    model: str
    examples: float = 0.0
    trained_s: float = 0.0
    fetched: int = 0
    fetch_s: float = 0.0
    stored: int = 0
    store_s: float = 0.0
    other_s: float = 0.0


class SpeedLedger:
    """The speeds, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, task: TaskSpeed) -> None:
        """Count a finished task; part of the caller's transaction."""
        knows = task.examples > 0 and task.trained_s > 0
        came, left = task.fetched >= LEAST_BYTES, task.stored >= LEAST_BYTES
        down, up = (_KEPT_OF_LINE if counts else 1.0 for counts in (came, left))
        self._database.execute(
            "INSERT INTO speeds VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, work, model) DO UPDATE "
            "SET tasks = tasks + 1, examples = examples + excluded.examples, trained_s = trained_s + excluded.trained_s, "
            f"fetched = CAST(fetched * {down} AS INTEGER) + excluded.fetched, fetch_s = fetch_s * {down} + excluded.fetch_s, "
            f"stored = CAST(stored * {up} AS INTEGER) + excluded.stored, store_s = store_s * {up} + excluded.store_s, "
            "other_s = other_s + excluded.other_s, least_other_s = min(least_other_s, excluded.least_other_s), at = excluded.at",
            (
                task.job,
                task.work,
                task.model,
                task.examples if knows else 0.0,
                task.trained_s if knows else 0.0,
                task.fetched if came else 0,
                task.fetch_s if came else 0.0,
                task.stored if left else 0,
                task.store_s if left else 0.0,
                task.other_s,
                task.other_s,
                time.time(),
            ),
        )
        self._database.execute(
            "DELETE FROM speeds WHERE at < (SELECT at FROM speeds ORDER BY at DESC LIMIT 1 OFFSET ?)",
            (_KEPT_JOBS,),
        )

    def add_line(self, size_bytes: int, down_s: float, up_s: float) -> None:
        """Count a check of the line, in place of the one before; part of the caller's transaction."""
        self._database.execute(
            "INSERT OR REPLACE INTO speeds VALUES (?, '', '', 0, 0, 0, ?, ?, ?, ?, 0, 0, ?)",
            (_LINE, size_bytes, down_s, size_bytes, up_s, time.time()),
        )

    def of(self, work: str, model: str) -> dict[str, float]:
        """Return what this node has measured, each only where it was.

        Returns:
            `examples_s`: examples a second that tasks of this kind trained; `down_bytes_s`, `up_bytes_s`: of the last
            transfers of the newest job, or of a check of the line after it; `start_s`: seconds of a job's beginning
            here; `round_s`: seconds of a round beside training and transfers.
        """
        found = self._rate("examples_s", "examples", "trained_s", "work = ? AND model = ?", (work, model))
        found |= self._rate("down_bytes_s", "fetched", "fetch_s", newest=1)
        found |= self._rate("up_bytes_s", "stored", "store_s", newest=1)
        row = self._database.row(
            "SELECT avg(least_other_s) AS round_s, avg(other_s - least_other_s * tasks) AS start_s FROM "
            f"(SELECT * FROM speeds WHERE tasks > 0 ORDER BY at DESC LIMIT {_NEWEST_JOBS})",
            (),
        )
        if row is not None and row["round_s"] is not None:
            found |= {"round_s": round(row["round_s"], 4), "start_s": round(max(0.0, row["start_s"]), 4)}
        return found

    def _rate(
        self,
        name: str,
        amount: str,
        seconds: str,
        where: str = "1",
        values: tuple[str, ...] = (),
        newest: int = _NEWEST_JOBS,
    ) -> dict[str, float]:
        row = self._database.row(
            f"SELECT sum({amount}) AS n, sum({seconds}) AS s FROM (SELECT {amount}, {seconds} FROM speeds "
            f"WHERE {where} AND {amount} > 0 AND {seconds} > 0 ORDER BY at DESC LIMIT {newest})",
            values,
        )
        return {} if row is None or not row["s"] else {name: round(row["n"] / row["s"], 3)}
