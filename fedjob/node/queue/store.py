"""The rows of the task machine in the node's database, the history of released tasks, the index of node states."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import SpecError
from fedjob.common.lifecycle import PENDING, State
from fedjob.common.types import check_given, check_prefix
from fedjob.node.queue.book import Book, JobRow, TaskRow
from fedjob.node.queue.departure import departure_of
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.node.storage.usage import UsageLedger

MAX_HISTORY = 10_000

_COLUMNS = (
    "key, job, researcher, dataset, round, step, epoch, attempt, reply_to, message, task_order, seq, state, "
    "worker, after_stop, ends, deaths, reason, detail, result, reply, acknowledged, resources, project, "
    "job_name, parent, child, inputs, waits, researcher_key"
)
_NAMES = _COLUMNS.split(", ")
_FIELDS = {"task_order": "order", "after_stop": "after"}
"""Columns that are named otherwise than the row's field, since SQL has a meaning for that."""

_PUT = (
    f"INSERT INTO tasks ({_COLUMNS}, accepted, started, ended, updated) "
    f"VALUES ({', '.join(':' + name for name in _NAMES)}, :now, :started, :ended, :updated) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _NAMES)}, "
    "started = coalesce(excluded.started, started), "
    "ended = iif(excluded.ended IS NULL, NULL, coalesce(ended, excluded.ended)), "
    "updated = iif(state = excluded.state, updated, excluded.updated)"
)
_LISTED = (
    "key, job, round, step, dataset, researcher, state, reason, worker, accepted, started, ended, updated, "
    "project, job_name, parent"
)


class TaskStore:
    """Keeps a book's rows; called inside the daemon's transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trail = TaskTrail(database)

    def load(self) -> Book:
        """Return the tasks and jobs as they were last committed."""
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
        return Book(tasks=tasks, jobs=jobs)

    def put_task(self, row: TaskRow) -> None:
        """Insert or update a task."""
        now = time.time()
        plain: dict[str, Any] = {name: getattr(row, _FIELDS.get(name, name)) for name in _NAMES}
        plain["state"], plain["ends"] = str(row.state), str(row.ends)
        plain["resources"] = pack(row.resources)
        plain["inputs"] = " ".join(row.inputs)
        plain["now"] = now
        plain["started"] = now if row.state in (State.STARTING, State.RUNNING) else None
        plain["ended"] = now if row.finished else None
        plain["updated"] = None if row.state in PENDING else now
        self._trail.note(row)
        self._database.execute(_PUT, plain)

    def delete_task(self, row: TaskRow) -> None:
        """Move a task, in its final state, into the history."""
        self.put_task(row)
        cursor = self._database.execute(
            f"INSERT INTO history ({_LISTED}, reply_to, released) "
            f"SELECT {_LISTED}, reply_to, ? FROM tasks WHERE key = ?",
            (time.time(), row.key),
        )
        self._database.execute("DELETE FROM tasks WHERE key = ?", (row.key,))
        self._trail.forget(row.key)
        if cursor.lastrowid and cursor.lastrowid % 256 == 0:
            self._database.execute("DELETE FROM history WHERE seq <= ?", (cursor.lastrowid - MAX_HISTORY,))

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

    def list_tasks(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return tasks as an owner sees them, newest first, released ones included."""
        rows = self._database.rows(
            f"SELECT {_LISTED}, NULL AS released, seq FROM tasks UNION ALL "
            f"SELECT {_LISTED}, released, seq FROM history ORDER BY accepted DESC, seq DESC"
        )
        tasks = [dict(row) for row in rows]
        children = Counter(task["parent"] for task in tasks if task["parent"])
        for task in tasks:
            del task["seq"]
            task["children"] = children[task["key"]]
        return [task for task in tasks if state is None or task["state"] == state]

    def find_task(self, start: str) -> dict[str, Any]:
        """Return the task whose key begins so, its latest run where it ran several times.

        Raises:
            SpecError: none, several, or too little is given of the key.
        """
        check_given(start, "the key of a task")
        found = {task["key"]: task for task in reversed(self.list_tasks()) if task["key"].startswith(start)}
        if not found:
            raise SpecError(f"no task begins with {start[:64]!r}: `fedjob node tasks` lists them")
        if len(found) > 1:
            keys = ", ".join(key[:12] for key in list(found)[:5])
            raise SpecError(f"{len(found)} tasks begin with {start[:64]!r} ({keys}, ...): say more of it")
        check_prefix(start, next(iter(found)))
        return next(iter(found.values()))

    def asker_of(self, key: str) -> dict[str, Any] | None:
        """Return who asked for a task: its job, round, step, researcher and session; None if unknown."""
        for table, order in (("tasks", "seq"), ("history", "seq DESC")):
            row = self._database.row(
                f"SELECT key, job, round, step, researcher, reply_to FROM {table} WHERE key = ? "
                f"ORDER BY {order} LIMIT 1",
                (key,),
            )
            if row is not None:
                return dict(row)
        return None

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state, released ones excepted."""
        rows = self._database.rows("SELECT state, count(*) AS n FROM tasks GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    # --- what the owner orders ------------------------------------------------------------------

    def last_ended(self) -> float:
        """Return when a task ended last, in seconds since 1970; 0 where none has."""
        row = self._database.row(
            "SELECT max((SELECT coalesce(max(ended), 0) FROM tasks), (SELECT coalesce(max(ended), 0) FROM history)) AS at"
        )
        return float(row["at"]) if row is not None else 0.0

    def order(self, verb: str, key: str) -> None:
        """Write down what the daemon is to do about a task: `kill` it or `release` its logs."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO owner_orders (verb, task, given) VALUES (?, ?, ?)", (verb, key, time.time())
            )

    def orders(self) -> list[tuple[int, str, str]]:
        """Return number, verb and task of what the owner ordered and the daemon has not done."""
        rows = self._database.rows("SELECT seq, verb, task FROM owner_orders ORDER BY seq")
        return [(row["seq"], row["verb"], row["task"]) for row in rows]

    def ordered(self, seq: int) -> None:
        """Strike an order off."""
        self._database.execute("DELETE FROM owner_orders WHERE seq = ?", (seq,))

    def mark_released(self, asker: Mapping[str, Any]) -> None:
        """Note that a task's log may be read by who asked for it, whenever they ask."""
        self._database.execute(
            "INSERT OR REPLACE INTO released VALUES (:key, :job, :researcher, :round, :step, :now)",
            {**asker, "now": time.time()},
        )
        self._database.execute(
            "DELETE FROM released WHERE rowid NOT IN (SELECT rowid FROM released ORDER BY given DESC LIMIT ?)",
            (MAX_HISTORY,),
        )

    def released_of(self, job: str, researcher: str) -> list[dict[str, Any]]:
        """Return key, round and step of a job's tasks whose logs were released, in the order of release."""
        return [
            dict(row)
            for row in self._database.rows(
                "SELECT task AS key, job, round, step FROM released WHERE job = ? AND researcher = ? "
                "ORDER BY given",
                (job, researcher),
            )
        ]

    # --- node states ------------------------------------------------------------------------------

    def add_state(self, job: str, state: str, round_: int, origin: str) -> None:
        """Enter a node state.

        Args:
            origin: what it was made of, see `task.origin_of`.
        """
        self._database.execute(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (state, job, round_, origin)
        )

    def origin_of_state(self, job: str, state: str) -> str | None:
        """Return what a node state was made of; None where there is no such state."""
        row = self._database.row("SELECT origin FROM states WHERE job = ? AND id = ?", (job, state))
        return None if row is None else str(row["origin"])

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
    plain = {_FIELDS.get(name, name): row[name] for name in _NAMES}
    plain["acknowledged"] = bool(plain["acknowledged"])
    plain["resources"] = unpack(plain["resources"])
    plain["inputs"] = tuple(plain["inputs"].split())
    return TaskRow(**plain)


class TaskTrail:
    """Writes the records; called inside the daemon's transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)
        self._usage = UsageLedger(database)

    def note(self, row: TaskRow) -> None:
        """Record a task that is about to be written, if its state or reason is another than before."""
        before = self._database.row("SELECT state, reason FROM tasks WHERE key = ?", (row.key,))
        state = str(row.state)
        if before is not None and (before["state"], before["reason"]) == (state, row.reason):
            return
        body = {
            "job": row.job,
            "researcher": row.researcher,
            "dataset": row.dataset,
            "round": row.round,
            "step": row.step,
            "project": row.project,
            "state": state,
            "reason": row.reason,
            "before": "" if before is None else before["state"],
            "grant": self._usage.bound(row.key),
        }
        if left := departure_of(row):
            body["departure"] = left
        self._audit.add("task", row.key, body)

    def forget(self, key: str) -> None:
        """Forget which grant a task ran under; the records keep it."""
        self._usage.unbind(key)
