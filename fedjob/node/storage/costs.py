"""The ledger of what finished tasks have cost this node: seconds and bytes, by job, and by the kind of work."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.codec import in_order, pack
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

_KEPT_OF_A_KIND = 20
"""Jobs by which the time of their like is judged, the newest ones."""
_KEPT = 10_000
"""Jobs whose costs are kept one by one; what others have cost a grant, those that ended first, is kept in one sum."""

_OLD = ""
"""In place of the job and of the work in that sum."""


def kind_of_work(*about: str) -> str:
    """Return the hash of a kind of work: plan, class, protocol, dataset and use."""
    return hashlib.sha256(pack(list(about))).hexdigest()


def arguments_hash(*settings: Mapping[str, Any]) -> str:
    """Return the hash of the settings and arguments that work runs with."""
    return hashlib.sha256(pack([in_order(dict(one)) for one in settings])).hexdigest()


def passes_in(training_args: Mapping[str, Any]) -> float:
    """Return the passes over the data that a round makes; 0 where it is given in updates, or is not known."""
    if training_args.get("num_updates") is not None:
        return 0.0
    epochs = training_args.get("epochs", 1)
    return float(epochs) if isinstance(epochs, int) and epochs > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCost:
    """The cost of one finished task.

    Args:
        work: hash of what all tasks of its kind have in common: text, class, protocol, dataset and use.
        args: hash of the arguments that it ran with.
        passes: over the data, which its time grows with; 0 for unknown.
        seconds: from its start to its answer.
        bytes_in: of the objects that it named.
        bytes_out: of those that it stored.
        claimed: bytes that its researcher said its job would move here; 0 for nothing said.
        failed: it came to nothing: its bytes have moved all the same, its time says nothing about others.
    """

    job: str
    grant: str
    work: str
    args: str
    passes: float
    round: int
    seconds: float
    bytes_in: int
    bytes_out: int
    claimed: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The cost so far of what runs under one grant.

    Args:
        over: a job of it has moved more than its researcher said.
    """

    seconds: float
    bytes_in: int
    bytes_out: int
    tasks: int
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTime:
    """The time that a round of a kind of work takes at this node.

    Args:
        round_s: seconds, the mean over the rounds that were measured.
        rounds: that were measured.
        same: they ran with the same arguments.
    """

    round_s: float
    rounds: int
    same: bool


class CostLedger:
    """The costs, in the node's database.

    Args:
        kept: jobs that are kept one by one.
    """

    def __init__(self, database: Database, *, kept: int = _KEPT) -> None:
        self._database = database
        self._kept = kept
        self._audit = Audit(database)

    def add(self, cost: TaskCost) -> None:
        """Count a finished task; part of the caller's transaction.

        Once a job has moved more than its researcher said, that is written into the audit log, a single time.
        """
        before = self._moved(cost.job, cost.grant)
        self._database.execute(
            "INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?) ON CONFLICT (job, grant_id, work) DO UPDATE "
            "SET rounds = rounds + (excluded.last_round > last_round), last_round = max(last_round, excluded.last_round), "
            "tasks = tasks + 1, seconds = seconds + excluded.seconds, bytes_in = bytes_in + excluded.bytes_in, "
            "bytes_out = bytes_out + excluded.bytes_out, claimed = excluded.claimed, at = excluded.at",
            (
                cost.job,
                cost.grant,
                cost.work,
                cost.args,
                cost.passes,
                0 if cost.failed else cost.round,
                int(not cost.failed),
                0.0 if cost.failed else cost.seconds,
                cost.bytes_in,
                cost.bytes_out,
                cost.claimed,
                time.time(),
            ),
        )
        self._record_if_over(cost.job, cost.grant, before, cost.claimed)
        self._add_up_old()

    def _add_up_old(self) -> None:
        """Add the costs of the jobs that ended first to one sum for each grant, whose limit they go on to count for."""
        row = self._database.row("SELECT at FROM costs ORDER BY at DESC LIMIT 1 OFFSET ?", (self._kept,))
        if row is None:
            return
        self._database.execute(
            "INSERT INTO costs SELECT ?, grant_id, ?, '', 0.0, 0, 0, sum(tasks), sum(seconds), sum(bytes_in), "
            "sum(bytes_out), 0, max(at) FROM costs WHERE at < ? AND job != ? AND grant_id IN (SELECT id FROM grants) "
            "GROUP BY grant_id ON CONFLICT (job, grant_id, work) DO UPDATE SET tasks = tasks + excluded.tasks, "
            "seconds = seconds + excluded.seconds, bytes_in = bytes_in + excluded.bytes_in, "
            "bytes_out = bytes_out + excluded.bytes_out",
            (_OLD, _OLD, row["at"], _OLD),
        )
        self._database.execute("DELETE FROM costs WHERE at < ? AND job != ?", (row["at"], _OLD))

    def add_moved(self, job: str, work: str, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count what moves for a secure sum after its task was counted; part of the caller's transaction."""
        row = self._database.row(
            "SELECT rowid, grant_id, claimed FROM costs WHERE job = ? AND work = ? ORDER BY at DESC, rowid DESC LIMIT 1",
            (job, work),
        )
        if row is None:
            return
        before = self._moved(job, row["grant_id"])
        self._database.execute(
            "UPDATE costs SET bytes_in = bytes_in + ?, bytes_out = bytes_out + ? WHERE rowid = ?",
            (bytes_in, bytes_out, row["rowid"]),
        )
        self._record_if_over(job, row["grant_id"], before, row["claimed"])

    def has_job(self, job: str) -> bool:
        """Tell whether a task of a job was counted already."""
        return self._database.row("SELECT 1 FROM costs WHERE job = ? LIMIT 1", (job,)) is not None

    def of_grant(self, id_: str) -> Moved | None:
        """Return what all jobs under a grant have cost; None for nothing yet."""
        row = self._database.row(
            "SELECT sum(seconds) AS seconds, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out, "
            "sum(tasks) AS tasks, max(claimed > 0 AND bytes_in + bytes_out > claimed) AS over FROM (SELECT "
            "sum(seconds) AS seconds, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out, sum(tasks) AS tasks, "
            "max(claimed) AS claimed FROM costs WHERE grant_id = ? GROUP BY job)",
            (id_,),
        )
        if row is None or row["tasks"] is None:
            return None
        return Moved(
            seconds=row["seconds"],
            bytes_in=row["bytes_in"],
            bytes_out=row["bytes_out"],
            tasks=row["tasks"],
            over=bool(row["over"]),
        )

    def moved_by(self, job: str, grant: str) -> int:
        """Return the bytes that all jobs under a grant have moved; without a grant, those that a job has."""
        if not grant:
            return self._moved(job, grant)
        found = self.of_grant(grant)
        return 0 if found is None else found.bytes_in + found.bytes_out

    def time_of(self, work: str, args: str, passes: float) -> MeasuredTime | None:
        """Return how long a round of a kind of work has taken here; None where none was measured.

        Rounds with the same arguments count alone where there are any; else those with others do, in proportion to
        their passes over the data.
        """
        rows = self._database.rows(
            f"SELECT * FROM costs WHERE work = ? AND rounds > 0 ORDER BY at DESC LIMIT {_KEPT_OF_A_KIND}",
            (work,),
        )
        same = [row for row in rows if row["args"] == args]
        if same:
            rounds = sum(row["rounds"] for row in same)
            seconds = sum(row["seconds"] for row in same)
            return MeasuredTime(round_s=seconds / rounds, rounds=rounds, same=True)
        alike = [row for row in rows if row["passes"] > 0 and passes > 0]
        if not alike:
            return None
        rounds = sum(row["rounds"] for row in alike)
        each = sum(row["seconds"] / row["passes"] for row in alike) / rounds
        return MeasuredTime(round_s=each * passes, rounds=rounds, same=False)

    def _moved(self, job: str, grant: str) -> int:
        """Return the bytes that a job has moved under a grant, whatever work it was."""
        row = self._database.row(
            "SELECT coalesce(sum(bytes_in + bytes_out), 0) AS n FROM costs WHERE job = ? AND grant_id = ?",
            (job, grant),
        )
        return 0 if row is None else int(row["n"])

    def _record_if_over(self, job: str, grant: str, before: int, claimed: int) -> None:
        """Write into the audit log that a job has just moved more than its researcher said."""
        moved = self._moved(job, grant)
        if claimed and before <= claimed < moved:
            self._audit.add("cost", grant or job, {"job": job, "moved": moved, "claimed": claimed})
