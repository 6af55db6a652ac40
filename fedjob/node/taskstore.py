"""The rows of `taskkeeping` in the node's database, a history of what was released, and states' index."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from fedjob.node.database import Database
from fedjob.node.taskkeeping import Book, JobRow, TaskRow

MAX_HISTORY = 10_000

_COLUMNS = (
    "key, job, researcher, dataset, round, step, epoch, attempt, reply_to, message, task_order, seq, status, "
    "deaths, reason, detail, result, reply, acknowledged"
)
_NAMES = _COLUMNS.split(", ")
_FIELDS = [name for name in _NAMES if name != "task_order"]
_PUT = (
    f"INSERT INTO tasks ({_COLUMNS}, accepted, started, ended) "
    f"VALUES ({', '.join(':' + name for name in _NAMES)}, :now, :started, :ended) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _NAMES)}, "
    "started = coalesce(excluded.started, started), ended = coalesce(ended, excluded.ended)"
)


class TaskStore:
    """Keeps a book's rows; called inside the daemon's transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, *, slots: int) -> Book:
        """Return the book as it was last committed."""
        tasks = {row.key: row for row in map(_task, self._database.rows("SELECT * FROM tasks ORDER BY seq"))}
        jobs = {
            row["job"]: JobRow(
                job=row["job"],
                researcher=row["researcher"],
                epoch=row["epoch"],
                round=row["round"],
                ended=bool(row["ended"]),
                seq=row["seq"],
            )
            for row in self._database.rows("SELECT * FROM jobs ORDER BY seq")
        }
        return Book(tasks=tasks, jobs=jobs, slots=slots)

    def put_task(self, row: TaskRow) -> None:
        """Insert or update a task."""
        now = time.time()
        plain = {name: getattr(row, name) for name in _FIELDS}
        plain["task_order"] = row.order
        plain["now"] = now
        plain["started"] = now if row.status == "running" else None
        plain["ended"] = now if row.finished else None
        self._database.execute(_PUT, plain)

    def delete_task(self, key: str) -> None:
        """Move a task into the history; one that was not finished is no longer needed."""
        execute = self._database.execute
        now = time.time()
        finished = "status IN ('done', 'failed')"
        cursor = execute(
            "INSERT INTO history (key, job, researcher, dataset, round, step, status, reason, accepted, "
            f"started, ended, released) SELECT key, job, researcher, dataset, round, step, "
            f"iif({finished}, status, 'cancelled'), iif({finished}, reason, 'not_needed'), "
            "accepted, started, coalesce(ended, ?), ? FROM tasks WHERE key = ?",
            (now, now, key),
        )
        execute("DELETE FROM tasks WHERE key = ?", (key,))
        if cursor.lastrowid and cursor.lastrowid % 256 == 0:
            execute("DELETE FROM history WHERE seq <= ?", (cursor.lastrowid - MAX_HISTORY,))

    def put_job(self, row: JobRow) -> None:
        """Insert or update a job."""
        self._database.execute(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.job, row.researcher, row.epoch, row.round, int(row.ended), row.seq, time.time()),
        )

    def delete_job(self, job: str) -> None:
        """Forget a job's fences."""
        self._database.execute("DELETE FROM jobs WHERE job = ?", (job,))

    def silent_jobs(self, since: float) -> list[str]:
        """Return jobs of which nothing was heard since then and that still hold something."""
        return [
            row["job"]
            for row in self._database.rows(
                "SELECT job FROM jobs WHERE changed < ? AND (job IN (SELECT job FROM tasks) OR job IN "
                "(SELECT job FROM states))",
                (since,),
            )
        ]

    def list_tasks(self, status: str | None = None) -> list[dict[str, Any]]:
        """Return tasks as an owner sees them, newest first, released ones included."""
        columns = "key, job, researcher, dataset, round, step, status, reason, accepted, started, ended"
        rows = self._database.rows(
            f"SELECT {columns}, NULL AS released FROM tasks UNION ALL "
            f"SELECT {columns}, released FROM history ORDER BY accepted DESC"
        )
        return [dict(row) for row in rows if status is None or row["status"] == status]

    def add_state(self, job: str, state: str, round_: int) -> None:
        """Enter a node state."""
        self._database.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (state, job, round_))

    def drop_states(self, job: str, keep: Collection[str], before: int | None = None) -> list[str]:
        """Remove a job's states but those in `keep` and those of round `before` and later; return their ids."""
        rows = self._database.rows("SELECT id, round FROM states WHERE job = ?", (job,))
        gone = [r["id"] for r in rows if r["id"] not in keep and (before is None or r["round"] < before)]
        for state in gone:
            self._database.execute("DELETE FROM states WHERE job = ? AND id = ?", (job, state))
        return gone

    def states(self) -> Iterable[tuple[str, str]]:
        """Return (job, id) of every state."""
        return [(row["job"], row["id"]) for row in self._database.rows("SELECT job, id FROM states")]


def _task(row: Any) -> TaskRow:
    plain = {name: row[name] for name in _NAMES}
    plain["order"] = plain.pop("task_order")
    plain["acknowledged"] = bool(plain["acknowledged"])
    return TaskRow(**plain)
