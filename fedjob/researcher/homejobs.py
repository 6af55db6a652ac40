"""The jobs of a home, as a session offers them; finding them needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedjob.researcher.catalogue import Table
from fedjob.researcher.finding import Name, find_entries, find_entry
from fedjob.researcher.home import job_folder

if TYPE_CHECKING:
    from fedjob.researcher.index import JobEntry
    from fedjob.researcher.job import Job
    from fedjob.researcher.session import Session

_COLUMNS = ("id", "name", "project", "state", "reason", "submitted")


class HomeJobs:
    """What a session knows of its own jobs. Other researchers' jobs lie in other homes."""

    home: Path

    def find(
        self,
        name: Name | None = None,
        id: str | None = None,
        state: str | Sequence[str] | None = None,
        project: str | None = None,
        plan: str | None = None,
    ) -> Job | None:
        """Return the one job of this home that matches; None where none does.

        Args:
            name: exactly so, a pattern with `*`, or a compiled regular expression.
            id: how it begins.
            state: a state, or `pending`, `active`, `history`.
            plan: the beginning of its text's sha256, or its class.

        Raises:
            AmbiguousJob: several match; they are listed.
        """
        entry = find_entry(self.home, name=name, id=id, state=state, project=project, plan=plan)
        return None if entry is None else self._open(entry)

    def jobs(
        self,
        name: Name | None = None,
        id: str | None = None,
        state: str | Sequence[str] | None = None,
        project: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        plan: str | None = None,
    ) -> Table[Job]:
        """Return the jobs of this home that match, in order of submission; drafts only where `state` says so.

        Args:
            name, id, state, project, plan: as for `find`.
            limit: only so many of the newest.
            reverse: newest first.
        """
        found = find_entries(
            self.home,
            name=name,
            id=id,
            state=state,
            project=project,
            plan=plan,
            limit=limit,
            reverse=reverse,
        )
        return Table([self._open(entry) for entry in found if entry.state != "unreadable"], _COLUMNS)

    @property
    def active(self) -> Job | None:
        """The job that was submitted last and has not ended; None where there is none."""
        found = find_entries(self.home, state=("pending", "active"), limit=1)
        return self._open(found[0]) if found else None

    def _open(self, entry: JobEntry) -> Job:
        from fedjob.researcher.job import Job

        session: Any = self
        return Job.open(job_folder(self.home, entry.id).path, session=cast("Session", session))
