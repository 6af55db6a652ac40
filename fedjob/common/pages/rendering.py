"""The templates of a page: always escaped, with one layout, and texts of others without signs that deceive."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from fedjob.common.errors import FedjobError

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class NavLink:
    """One entry of a page's navigation.

    Args:
        count: shown beside the label where it is above 0.
    """

    path: str
    label: str
    count: int = 0


class PageTemplates:
    """The templates of one page.

    Args:
        folder: of its own templates, beside the shared ones.
        title: of the whole page, such as `Node clinic-1`.
        nav: returns the navigation as it is now.
    """

    def __init__(self, folder: Path, *, title: str, nav: Callable[[], Sequence[NavLink]]) -> None:
        self._title = title
        self._nav = nav
        self.environment = Environment(
            loader=FileSystemLoader([folder, _HERE / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self.environment.filters.update(
            size=size_text, number=number_text, when=time_text, ago=ago_text, ticks=ticks_html
        )

    def render(self, request: Request, template: str, /, status: int = 200, **about: Any) -> Response:
        """Return a template as an answer.

        Args:
            about: what the template shows.
        """
        session = request.state.session
        text = self.environment.get_template(template).render(
            site=self._title,
            nav=() if session is None else self._links(),
            here=request.url.path,
            csrf="" if session is None else session.csrf,
            notes=[] if session is None else session.take_notes(),
            person=None if session is None else session.person,
            **about,
        )
        return HTMLResponse(text, status_code=status)

    def _links(self) -> Sequence[NavLink]:
        """Return the navigation; none where what it is made of can't be read, which the page itself then says."""
        try:
            return self._nav()
        except (FedjobError, sqlite3.Error, OSError):
            return ()

    def error(self, request: Request, status: int, title: str, sentence: str) -> Response:
        """Return a page that says in a sentence what can't be done."""
        return self.render(request, "error.html", status, title=title, sentence=sentence)

    def missing(self, request: Request) -> Response:
        """Return the page of an address at which there is nothing."""
        return self.error(request, 404, "Not here", "There is nothing at this address.")


def visible_text(text: str) -> str:
    """Return a text with signs that no eye sees, or that turn the direction of writing, as a box."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def ticks_html(text: str) -> Markup:
    """Return a text in which what stands between two backticks is shown as code."""
    pieces = [escape(visible_text(piece)) for piece in text.split("`")]
    if len(pieces) % 2 == 0:  # one without its other
        return Markup("`").join(pieces)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 else piece
        for number, piece in enumerate(pieces)
    )


def size_text(num_bytes: float) -> str:
    """Return a number of bytes as people read it."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def number_text(value: float) -> str:
    """Return a number with commas between thousands, and four digits of one with a point."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def time_text(at: float | None, never: str = "never") -> str:
    """Return seconds since 1970 as local date and time."""
    return never if not at else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def ago_text(at: float | None, now: float | None = None) -> str:
    """Return in words how long ago seconds since 1970 were."""
    if not at:
        return "never"
    seconds = max(0.0, (time.time() if now is None else now) - at)
    for length, unit in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "just now"


def _shown(value: Any) -> Any:
    """Return a value as a template writes it: text of others, never markup, without deceiving signs."""
    return visible_text(value) if type(value) is str else value
