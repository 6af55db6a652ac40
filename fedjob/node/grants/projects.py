"""The limits that an owner sets on everything in a project at this node."""

from __future__ import annotations

from functools import reduce

from fedjob.common.codec import pack, unpack
from fedjob.node.grants.limits import GrantLimits, tighten
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

DEFAULT = "default"
"""The project whose limits hold in all projects, and where there is none."""


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
        """Return what limits everything in a project: those of `default` and its own together."""
        limits, default = self._all(), GrantLimits()
        own = limits.get(project, default) if project else default
        return tighten(limits.get(DEFAULT, default), own)

    def unnamed_limits_of(self, project: str) -> GrantLimits:
        """Return what limits a job whose owner was not asked about this job's project.

        One in a project without limits of its own, or in none, keeps those of every project: it would leave
        a project's limits by not naming it.
        """
        limits = self._all()
        if project in limits and project != DEFAULT:
            return self.limits_of(project)
        return reduce(tighten, limits.values(), GrantLimits())

    def _all(self) -> dict[str, GrantLimits]:
        rows = self._database.rows("SELECT project, limits FROM project_limits ORDER BY project")
        return {str(row["project"]): GrantLimits.from_plain(unpack(row["limits"])) for row in rows}
