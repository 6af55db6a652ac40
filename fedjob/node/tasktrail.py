"""Each change of a task's state leaves an audit record, which names the grant that the task runs under."""

from __future__ import annotations

from fedjob.node.audit import Audit
from fedjob.node.database import Database
from fedjob.node.taskbook import TaskRow
from fedjob.node.usage import UsageLedger


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
        self._audit.add("task", row.key, body)

    def forget(self, key: str) -> None:
        """Forget which grant a task ran under; the records keep it."""
        self._usage.unbind(key)
