"""The researcher's page, put together: what it shows, what it changes, what it sends while it is open."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from starlette.requests import Request

from fedjob.common.notebooks import html
from fedjob.common.pages.password import PagePassword
from fedjob.common.pages.site import PageServer, PageSite, listen_on_loopback, make_page_server
from fedjob.researcher.page.actions import ResearcherActions
from fedjob.researcher.page.desk import STATIC_FILES, JobOrders, open_desk
from fedjob.researcher.page.files import ResearcherFiles
from fedjob.researcher.page.live_stream import LiveStreams
from fedjob.researcher.page.side_by_side import SideBySide
from fedjob.researcher.page.views import ResearcherViews

END_S = 10.0


class ResearcherSite(PageSite):
    """The page of a researcher's home; jobs may run or not, and several pages may be open at once.

    Args:
        port: of loopback that it is served on.
        outer_url: under which a web server shows it; empty for none.
        password: what opens it beside a link.

    Raises:
        ConfigError, NoSpace: nobody can work in that home.
    """

    def __init__(
        self,
        home: Path,
        orders: JobOrders,
        *,
        port: int,
        outer_url: str = "",
        password: PagePassword | None = None,
    ) -> None:
        desk = open_desk(home, orders)
        views = ResearcherViews(desk)
        self._streams = LiveStreams(desk, views, self._goes_on)
        parts = (views, SideBySide(desk), ResearcherFiles(desk), self._streams, ResearcherActions(desk))
        routes = [route for part in parts for route in part.routes()]
        super().__init__(
            desk.templates, routes, port=port, static=STATIC_FILES, outer_url=outer_url, password=password
        )

    def _goes_on(self, request: Request) -> bool:
        return self.sessions.is_open(request.state.guard.id_of(request.headers))

    def make_server(self) -> PageServer:
        """Return a server for the page, whose streams end when it does."""
        server = make_page_server(self)
        self._streams.is_over = lambda: bool(server.should_exit)
        return server


class OpenPage:
    """A page that is served by a thread of this process: `session.page()`.

    It ends with `close()`, at the end of its `with` block, or with the process.
    """

    def __init__(self, home: Path, orders: JobOrders, port: int = 0) -> None:
        self._listener = listen_on_loopback(port)
        try:
            self._site = ResearcherSite(home, orders, port=int(self._listener.getsockname()[1]))
            self._server = self._site.make_server()
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="fedjob-page", daemon=True
        )
        self._thread.start()

    @property
    def link(self) -> str:
        """A new link that opens the page once, within 15 minutes."""
        return self._site.link()

    @property
    def closed(self) -> bool:
        """True once it is not served any more."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the page; a second time does nothing."""
        self._server.should_exit = True
        self._thread.join(END_S)
        self._listener.close()

    def __enter__(self) -> OpenPage:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "the page was closed" if self.closed else f"the page, opened once by {self.link}"

    def _repr_html_(self) -> str:
        if self.closed:
            return html.panel("The page was closed", html.note("session.page() opens another one."))
        link = html.Piece(
            f'<a href="{self.link}" target="_blank" rel="noopener">Open the page of your jobs</a>'
        )
        note = html.note("The link works once, in a browser of this machine; page.link is another one.")
        return html.panel("", link, note)
