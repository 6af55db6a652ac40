"""The limits that an owner sets on everything in a project at this node."""

from __future__ import annotations

from fedjob.common.codec import pack, unpack
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database


class Projects:
    """The limits of projects, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    def limit(self, project: str, limits: GrantLimits, by: str) -> None:
        """Set what limits everything in a project, on top of each grant's own."""
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO project_limits VALUES (?, ?)", (project, pack(limits.to_plain()))
            )
            self._audit.add("project", project, {"limits": limits.to_plain(), "by": by})

    def limits_of(self, project: str) -> GrantLimits:
        """Return what limits everything in a project; `default` where it has none of its own."""
        for name in dict.fromkeys((project or "default", "default")):
            row = self._database.row("SELECT limits FROM project_limits WHERE project = ?", (name,))
            if row is not None:
                return GrantLimits.from_plain(unpack(row["limits"]))
        return GrantLimits()
