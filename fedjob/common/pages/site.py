"""A page's application and the server that shows it on loopback: sign-in, static files, errors, and its own routes."""

from __future__ import annotations

import logging
import signal
import socket
import sqlite3
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.network.addresses import is_loopback
from fedjob.common.pages.guard import SIGN_IN, STATIC, PageGuard, field_of
from fedjob.common.pages.password import PagePassword
from fedjob.common.pages.rendering import PageTemplates
from fedjob.common.pages.sessions import PageSessions

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_CONNECTIONS = 64
KEEP_ALIVE_S = 20
GRACE_S = 2
MAX_HEAD_BYTES = 16 * 1024

_HERE = Path(__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def listen_on_loopback(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: 0 for a free one.

    Raises:
        ConfigError: the port is in use, or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the page can't be shown on {HOST} port {port}: {reason}; choose another with --port, or 0 for a free one"
        ) from error
    return listener


def check_outer_url(url: str) -> str:
    """Return the address under which a web server with TLS shows a page, as `https://NAME[:PORT]`.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not parts.hostname or not is_plain or not secure:
        raise ConfigError(
            f"expected the address of a web server with TLS before the page, https://NAME[:PORT], found {url[:80]!r}"
        )
    standard = {"https": 443, "http": 80}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, standard) else "")


class PageSite:
    """One page with sign-in, as an ASGI application in `app`.

    Args:
        routes: of the page's own; their handlers find `request.state.session` and `request.state.form`.
        static: files of the page's own beside the shared style sheet and script.
        port: that it is served on, for the addresses that it answers under.
        outer_url: see `check_outer_url`; empty for none.
        password: what opens a session beside a link; None for links alone.
    """

    def __init__(
        self,
        templates: PageTemplates,
        routes: Sequence[BaseRoute],
        *,
        port: int,
        static: Sequence[Path] = (),
        outer_url: str = "",
        password: PagePassword | None = None,
    ) -> None:
        self.sessions = PageSessions()
        self._templates = templates
        self._password = password
        self._port = port
        files = [_HERE / "static" / "page.css", _HERE / "static" / "page.js", *static]
        self._files = {file.name: (file.read_bytes(), _KINDS[file.suffix]) for file in files}
        own = [
            Route(SIGN_IN, self._show_sign_in, methods=["GET"]),
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            Route("/leave", self._sign_out, methods=["POST"]),
            Route(STATIC + "{name}", self._static, methods=["GET"]),
        ]
        handlers = {
            HTTPException: self._http_error,
            FedjobError: self._refused,
            sqlite3.Error: self._no_database,
        }
        starlette = Starlette(routes=[*own, *routes], exception_handlers={**handlers, Exception: self._fault})  # type: ignore[dict-item]
        origins = [f"http://{host}:{port}" for host in (HOST, "localhost")]
        self._guard = PageGuard(
            starlette,
            self.sessions,
            origins=[outer_url, *origins] if outer_url else origins,
            cookie=f"fedjob-page-{port}",
        )
        self.app = self._guard

    def link(self) -> str:
        """Return a link that opens one session, once."""
        return f"http://{HOST}:{self._port}{SIGN_IN}#{self.sessions.new_link()}"

    # --- sign-in --------------------------------------------------------------------------------

    def _show_sign_in(self, request: Request) -> Response:
        if request.state.session is not None:
            return RedirectResponse("/", status_code=303)
        return self._sign_in_page(request)

    def _sign_in_page(self, request: Request, status: int = 200, problem: str = "") -> Response:
        return self._templates.render(
            request, "enter.html", status, problem=problem, has_password=self._password is not None
        )

    def _sign_in(self, request: Request) -> Response:
        form = request.state.form
        link, password = field_of(form, "link"), "".join(form.get("password", []))
        link = link.rpartition("#")[2]
        if link and self.sessions.use_link(link):
            return self._entered(request)
        if link:
            problem = "This link was used already, or is too old: the terminal prints a new one when you press Enter there."
            return self._sign_in_page(request, 403, problem)
        if self._password is None or not password:
            return self._sign_in_page(request, 403, "Nothing was given that opens this page.")
        if self._password.fits(password):
            return self._entered(request)
        wait_s = self._password.wait_s()
        if wait_s > 0:
            problem = f"Too many wrong passwords: none is looked at for {wait_s:.0f} s."
            response = self._sign_in_page(request, 429, problem)
            response.headers["retry-after"] = f"{wait_s:.0f}"
            return response
        return self._sign_in_page(request, 403, "This is not the password.")

    def _entered(self, request: Request) -> Response:
        self.sessions.end(self._guard.id_of(request.headers))  # whoever set it knows it
        response = RedirectResponse("/", status_code=303)
        response.headers["set-cookie"] = self._guard.cookie_of(self.sessions.begin(), request.headers)
        return response

    def _sign_out(self, request: Request) -> Response:
        self.sessions.end(self._guard.id_of(request.headers))
        response = RedirectResponse(SIGN_IN, status_code=303)
        response.headers["set-cookie"] = self._guard.cookie_of("", request.headers) + "; Max-Age=0"
        return response

    # --- the rest -------------------------------------------------------------------------------

    def _static(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            return self._templates.missing(request)
        return Response(found[0], media_type=found[1])

    def _http_error(self, request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return self._templates.missing(request)
        response = self._templates.error(
            request, error.status_code, "Not so", "This address is not used in this way."
        )
        response.headers.update(error.headers or {})
        return response

    def _refused(self, request: Request, error: FedjobError) -> Response:
        return self._templates.error(request, 400, "That can't be done", str(error))

    def _no_database(self, request: Request, error: sqlite3.Error) -> Response:
        sentence = (
            f"The database can't be used ({error}): look at the disk, and at who owns the files of the home."
        )
        return self._templates.error(request, 503, "Not possible now", sentence)

    def _fault(self, request: Request, error: Exception) -> Response:
        log.error("a page failed: %s %s", request.method, request.url.path, exc_info=error)
        return self._templates.error(
            request,
            500,
            "Something went wrong",
            "An error that nobody foresaw; the terminal of the page shows it.",
        )


class PageServer(uvicorn.Server):
    """A server that Ctrl-C and SIGTERM end as what they are here: the usual end of a page."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End the server at a signal, in the process's first thread; another thread's owner ends it itself."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_page_server(site: PageSite) -> PageServer:
    """Return a server for a page; `run(sockets=[...])` serves it until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        site.app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return PageServer(config)
