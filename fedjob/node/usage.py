"""What was used of each grant, and which task was accepted under which."""

from __future__ import annotations

import time

from fedjob.node.audit import Audit
from fedjob.node.database import Database


class Usage:
    """The counts, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    def uses_it(self, id_: str, job: str) -> bool:
        """Tell whether a job is one of those that ran under a grant."""
        row = self._database.row("SELECT 1 FROM uses WHERE grant_id = ? AND job = ?", (id_, job))
        return row is not None

    def use(self, id_: str, job: str) -> None:
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

    def spend(self, key: str, *, rows: int, inferences: int = 0) -> None:
        """Count what a finished task computed on against its grant; part of the caller's transaction."""
        self._database.execute(
            "UPDATE grants SET rows_spent = rows_spent + ?, inferences_spent = inferences_spent + ? "
            "WHERE id = ?",
            (rows, inferences, self.bound(key)),
        )
