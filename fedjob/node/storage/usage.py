"""The usage of each grant, and the grant that each task was accepted under."""

from __future__ import annotations

import time

from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.protocols.usage import Usage, usage_of


class UsageLedger:
    """The counts, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    # --- jobs and tasks ------------------------------------------------------------------------

    def uses_it(self, id_: str, job: str) -> bool:
        """Tell whether a job is one of those that ran under a grant."""
        row = self._database.row("SELECT 1 FROM uses WHERE grant_id = ? AND job = ?", (id_, job))
        return row is not None

    def grants_of(self, job: str) -> frozenset[str]:
        """Return the grants that a job has run under."""
        rows = self._database.rows("SELECT grant_id FROM uses WHERE job = ?", (job,))
        return frozenset(str(row["grant_id"]) for row in rows)

    def begin(self, id_: str, job: str) -> None:
        """Count a job that begins to run under a grant, once."""
        if not self.uses_it(id_, job):
            with self._database.transaction():
                self._database.execute("INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", (id_, job, time.time()))
                self._audit.add("use", id_, {"job": job})

    def bind(self, key: str, id_: str) -> None:
        """Note which grant a task was accepted under; part of the caller's transaction."""
        self._database.execute("INSERT OR REPLACE INTO task_grants VALUES (?, ?)", (key, id_))

    def bound(self, key: str) -> str:
        """Return the grant that a task was accepted under; empty where none was needed."""
        row = self._database.row("SELECT grant_id FROM task_grants WHERE key = ?", (key,))
        return "" if row is None else str(row["grant_id"])

    def unbind(self, key: str) -> None:
        """Forget a task that is gone; part of the caller's transaction."""
        self._database.execute("DELETE FROM task_grants WHERE key = ?", (key,))

    # --- rows and predictions --------------------------------------------------------------------

    def spend(self, key: str, *, rows: int) -> None:
        """Count what a finished task computed on against its grant; part of the caller's transaction."""
        self._database.execute(
            "UPDATE grants SET rows_spent = rows_spent + ? WHERE id = ?", (rows, self.bound(key))
        )

    def used(self, id_: str) -> int:
        """Return how many predictions were asked for under a grant, with all models together."""
        return sum(self.by_model(id_).values())

    def by_model(self, id_: str) -> dict[str, int]:
        """Return how many predictions were asked for under a grant with each model."""
        rows = self._database.rows(
            "SELECT model, made FROM inferences WHERE grant_id = ? ORDER BY model", (id_,)
        )
        return {str(row["model"]): int(row["made"]) for row in rows}

    def use(self, model: str, count: int, limit: int, *, grant: str = "") -> Usage | None:
        """Count predictions that were asked for, and return how many of them a limit allows.

        The count goes up by what was asked, whether or not the limit is passed: those over it
        are not made, and the owner sees that they were wanted.
        They are counted for each model, and held against the limit together: a model that was
        changed by a hair is another one, but the rows that it tells of are the same.

        Args:
            model: sha256 of its parameters.
            count: that were asked for.
            limit: of the grant, 0 for none.
            grant: that they are made under, or what stands for it where none was needed.

        Returns:
            None while something is left; `Usage(0, count)` where this was the last of it.
        """
        with self._database.transaction():
            usage = usage_of(self.used(grant), count, limit)
            self._database.execute(
                "INSERT INTO inferences VALUES (?, ?, ?) "
                "ON CONFLICT (grant_id, model) DO UPDATE SET made = made + excluded.made",
                (grant, model, count),
            )
        return usage
