"""The desk of the researcher's page: the home that it is of, its templates, and what it can have done with a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request

from fedjob.common.errors import SpecError
from fedjob.common.pages.rendering import NavLink, PageTemplates
from fedjob.common.types import check_job_id
from fedjob.researcher.connection.home import take_home
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.index import list_entries, owner_of

TEMPLATES = Path(__file__).parent / "templates"
STATIC_FILES = (
    Path(__file__).parent / "static" / "researcher.css",
    Path(__file__).parent / "static" / "researcher.js",
)


class HandledJob(Protocol):
    """What of a job the page has done: see `Job`."""

    @property
    def id(self) -> str: ...

    @property
    def attempts(self) -> int: ...

    def restart(self, breakpoint: Any = None, rounds: int | None = None) -> Any: ...

    def clone(self, **changes: Any) -> HandledJob: ...


@dataclass(frozen=True, slots=True)
class JobOrders:
    """The doors to what lies above the page.

    Args:
        open_job: returns the job of a folder.
        submit: hands a draft over, in a connection of its own; returns its id.
    """

    open_job: Callable[[JobFolder], HandledJob]
    submit: Callable[[JobFolder], str]


@dataclass(frozen=True, slots=True)
class ResearcherDesk:
    """What every part of the page works with."""

    home: Path
    templates: PageTemplates
    orders: JobOrders

    def folder_of(self, request: Request) -> JobFolder | None:
        """Return the folder of the job that an address names by its whole id; None if there is none."""
        return self.find(request.path_params["id"])

    def find(self, id_: str) -> JobFolder | None:
        """Return the folder of the job of this id; None if there is none."""
        try:
            folder = job_folder(self.home, check_job_id(id_))
        except SpecError:
            return None
        return folder if folder.spec.exists() and not folder.path.is_symlink() else None


def open_desk(home: Path, orders: JobOrders) -> ResearcherDesk:
    """Return the desk of a researcher's home.

    Raises:
        ConfigError, NoSpace: nobody can work there, see `check_home`.
    """
    take_home(home)
    party = owner_of(home)
    list_entries(home)  # the index is there before anybody looks

    def nav() -> list[NavLink]:
        return [NavLink(path="/jobs", label="Jobs"), NavLink(path="/compare", label="Compare")]

    templates = PageTemplates(
        TEMPLATES, title=f"Researcher {party}" if party else f"Jobs of {home.name}", nav=nav
    )
    return ResearcherDesk(home, templates, orders)
