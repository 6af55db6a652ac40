"""A researcher's session with a federation: a connection, what the federation has, and the jobs of the home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import checked, checked_methods
from fedjob.common.errors import MissingPackage
from fedjob.identity.client_certificate import own_certificate
from fedjob.protocols.function import Function
from fedjob.researcher.connection.catalogue import (
    Listing,
    NodeInfo,
    Offered,
    list_datasets,
    list_nodes,
)
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.login import Login, Prompt
from fedjob.researcher.connection.login import login as log_in
from fedjob.researcher.connection.opening import open_connection
from fedjob.researcher.runner.revival import look
from fedjob.researcher.storage.folder import job_folder
from fedjob.researcher.storage.search import Name, find_entries, find_entry

if TYPE_CHECKING:
    from fedjob.researcher.jobs.followed import FollowedJob
    from fedjob.researcher.jobs.functions import AskedFunctions
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.page.desk import JobOrders
    from fedjob.researcher.page.site import OpenPage
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.index import JobEntry

_OF_THE_EXTRA = ("jinja2", "markupsafe", "starlette", "uvicorn", "h11")

_COLUMNS = ("id", "name", "project", "state", "reason", "submitted")


@checked_methods
class HomeJobs:
    """The jobs of a home, which need no network to be found. Other researchers' jobs lie in other homes."""

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
    ) -> Listing[Job]:
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
            look=look,
        )
        return Listing([self._open(entry) for entry in found if entry.state != "unreadable"], _COLUMNS)

    def functions(self, timeout_s: float = 3.0) -> AskedFunctions:
        """Return the functions that nodes were asked for in this home, with each owner's decision.

        `session.functions()["means"](column="age", data=...)` runs one by its name.

        Args:
            timeout_s: seconds to wait for nodes to say what their owners have decided by now.
        """
        from fedjob.researcher.jobs.functions import asked_functions

        found = find_entries(self.home, state=("draft", "pending", "active", "history"))
        jobs = [
            self._open(entry)
            for entry in found
            if entry.protocol == Function.name and entry.state != "unreadable"
        ]
        return asked_functions(jobs, self if isinstance(self, Connection) else None, timeout_s)

    def page(self, port: int = 0) -> OpenPage:
        """Show the jobs of this home in a browser, from a thread of this process; return the page, with its link.

        `fedjob page` does the same at a terminal.

        Args:
            port: of this machine's loopback; 0 for a free one.

        Raises:
            MissingPackage: the extra `page` is not installed.
            ConfigError: the port is in use.
        """
        found: OpenPage = page_site().OpenPage(self.home, job_orders(self.home), port)
        return found

    @property
    def active(self) -> Job | None:
        """The job that was submitted last and has not ended; None where there is none."""
        found = find_entries(self.home, state=("pending", "active"), limit=1, look=look)
        return self._open(found[0]) if found else None

    def _open(self, entry: JobEntry) -> Job:
        from fedjob.researcher.jobs.job import Job

        connection = self if isinstance(self, Connection) else None
        return Job.open(job_folder(self.home, entry.id).path, session=connection)


@checked_methods
class Session(Connection, HomeJobs):
    """A connection with what a researcher asks of it; used by one thread at a time.

    Args:
        home: the researcher's home folder.
    """

    def nodes(self, timeout_s: float = 3.0) -> Listing[NodeInfo]:
        """Return every enrolled node and whether it answers."""
        return list_nodes(self, timeout_s)

    def datasets(
        self,
        tags: Iterable[str] | None = None,
        name: str | None = None,
        timeout_s: float = 3.0,
        *,
        project: str = "",
    ) -> Offered:
        """Return the datasets that nodes offer; `silent` of it names the nodes that did not answer, and why.

        Args:
            tags: a dataset must have all of them.
            name: exact name of a dataset.
            project: only nodes that are enrolled in it answer with data; empty for all nodes.
        """
        return list_datasets(self, tags, name, timeout_s, project=project)

    def follow(self, job_id: str) -> FollowedJob:
        """Return another party's job that names this party among its watchers, to look at only.

        Raises:
            NotAllowed: it does not.
            NoSuchJob: nothing is shown of that job, or not any more.
            RepositoryUnreachable: the hub does not answer.
        """
        from fedjob.researcher.jobs.followed import FollowedJob

        return FollowedJob(self, job_id)

    def login(
        self, issuer: str, client_id: str, *, tell: Callable[[Prompt], object], tls_ca: str = ""
    ) -> Login:
        """Log in at an OpenID provider, for nodes that want more than a signature; see `researcher/connection/login.py`.

        Args:
            tell: is given what the person has to do, such as `print`.
        """
        return log_in(self.home, self.identity, issuer=issuer, client_id=client_id, tell=tell, tls_ca=tls_ca)


def page_site() -> Any:
    """Return the module of the researcher's page, which needs the extra `page`.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        from fedjob.researcher.page import site
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _OF_THE_EXTRA:
            raise
        raise MissingPackage(f"the page needs {error.name}: pip install 'fedjob[page]'") from error
    return site


def job_orders(home: Path) -> JobOrders:
    """Return what the page of a home has done with its jobs: what it submits, it submits in a connection of its own."""
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.page.desk import JobOrders

    def open_job(folder: JobFolder) -> Job:
        return Job.open(folder.path)

    def submit(folder: JobFolder) -> str:
        job = open_job(folder)
        if job.spec.local:
            return job.submit().id
        with open_connection(Session, home=home, is_default=False) as session:
            return Job.open(folder.path, session=session).submit().id

    return JobOrders(open_job, submit)


@checked
def connect(
    hub: str | None = None,
    *,
    home: str | Path | None = None,
    id: str | None = None,
    invite: str | Path | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    proxy: str | None = None,
    broker: str | None = None,
    repo: str | None = None,
    key: str | Path | None = None,
    strict: bool | None = None,
    timeout_s: float = 10.0,
) -> Session:
    """Connect to a federation and make this the default session.

    Args:
        hub: URL of the hub's repository; None for the one that the home belongs to.
        home: the researcher's home; None for `$FEDJOB_HOME`, then `~/.fedjob/researcher`.
        id: this researcher's id, when the home is new; None takes one from the machine's name.
        invite: an invitation file, where the hub is not on this machine.
        tls_ca: certificate of the hub's own authority, when the home is new.
        tls_cert, tls_key: this researcher's own certificate and its key, PEM files, at a hub that issues none.
        proxy: on the way to the hub: its URL, with a login where it wants one; `none`; None for the home's setting,
            then the environment's variables. Kept when the home is new.
        broker: URL of the MQTT broker, where it is not reached as the hub says, such as through a tunnel.
        repo: the same for the file repository.
        key: file with a key to use, when the home is new; None makes one.
        strict: refuse nodes that the home's `known_nodes` does not name; None for the home's setting.
        timeout_s: to reach hub and broker.

    Raises:
        ConfigError: the home belongs to another federation, or to none and no hub is given.
        RepositoryUnreachable, BrokerUnreachable: nobody answers there.
        NotPermitted: the hub does not take this party.
    """
    return open_connection(
        Session,
        hub,
        home=home,
        id=id,
        invite=invite,
        tls_ca=tls_ca,
        own=own_certificate(tls_cert, tls_key),
        proxy=proxy,
        broker=broker,
        repo=repo,
        key=key,
        strict=strict,
        timeout_s=timeout_s,
    )
