"""The desk of the owner's page: the home that it is of, its templates, and the answers that every part of it gives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from fedjob.common.errors import ConfigError
from fedjob.common.pages.orders import carry_out
from fedjob.common.pages.rendering import NavLink, PageTemplates
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.home_database import open_database

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class OwnerDesk:
    """What every part of the page works with."""

    home: NodeHome
    templates: PageTemplates

    def act(self, request: Request, back: str, change: Callable[[], str]) -> Response:
        """Carry out a change, and go to a page that says what became of it.

        Args:
            back: path of that page.
            change: returns in words what was done.
        """
        return carry_out(request, back, change)


def open_desk(home: NodeHome) -> OwnerDesk:
    """Return the desk of a node's home.

    Raises:
        ConfigError: the folder is no node's home, or can't be written.
    """
    home.check()
    check_writable(home.root)
    with open_database(home):
        pass  # a database of another fedjob is refused before anything is shown

    def nav() -> list[NavLink]:
        with open_database(home) as database:
            row = database.row("SELECT count(*) AS n FROM grants WHERE status = 'pending'")
        return [
            NavLink(path="/", label="Overview"),
            NavLink(path="/requests", label="Requests", count=0 if row is None else int(row["n"])),
            NavLink(path="/agreements", label="Agreements"),
            NavLink(path="/datasets", label="Datasets"),
            NavLink(path="/tasks", label="Tasks"),
            NavLink(path="/departures", label="What left"),
            NavLink(path="/audit", label="Audit log"),
            NavLink(path="/settings", label="Settings"),
            NavLink(path="/security", label="Security"),
        ]

    return OwnerDesk(home, PageTemplates(TEMPLATES, title=f"Node {home.node}", nav=nav))


def check_writable(folder: Path) -> None:
    """Refuse a home in which nothing can be recorded.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be written ({os.strerror(error.errno or 0)}), and the page records every decision in it: mount "
            "it for writing, or run the page as the user who owns it"
        ) from error
