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

from fedjob.common.errors import ConfigError, FedjobError, NotPermitted
from fedjob.common.network.addresses import is_loopback
from fedjob.common.pages.guard import SIGN_IN, STATIC, PageGuard, field_of
from fedjob.common.pages.password import PagePassword
from fedjob.common.pages.people import PageDoor, PagePerson
from fedjob.common.pages.rendering import PageTemplates
from fedjob.common.pages.sessions import PageSessions

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
BEGIN = f"{SIGN_IN}/openid"
"""Where a browser begins a sign-in at a provider; it comes back to `/back` below it."""

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
        password: what opens a session beside a link; None for none.
        door: a provider at which people sign in; None for none.
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
        door: PageDoor | None = None,
    ) -> None:
        self.sessions = PageSessions() if door is None else PageSessions(admits=door.admits)
        self._door = door
        self._templates = templates
        self._password = password
        self._port = port
        files = [_HERE / "static" / "page.css", _HERE / "static" / "page.js", *static]
        self._files = {file.name: (file.read_bytes(), _KINDS[file.suffix]) for file in files}
        own = [
            Route(SIGN_IN, self._show_sign_in, methods=["GET"]),
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            *([] if door is None else self._door_routes(door)),
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
        left = self._door is not None and "left" in request.query_params
        return self._templates.render(
            request,
            "enter.html",
            status,
            problem=problem,
            has_password=self._password is not None,
            door=None if self._door is None else self._door.label,
            begin=BEGIN,
            way_out=self._door.way_out() if left and self._door is not None else "",
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

    def _entered(
        self, request: Request, person: PagePerson | None = None, answer: Response | None = None
    ) -> Response:
        self.sessions.end(self._guard.id_of(request.headers))  # whoever set it knows it
        response = RedirectResponse("/", status_code=303) if answer is None else answer
        id_ = self.sessions.begin(person)
        response.headers.append("set-cookie", self._guard.cookie_of(id_, request.headers))
        return response

    def _door_routes(self, door: PageDoor) -> list[BaseRoute]:
        """Return the addresses by which a browser goes to a provider, and comes back."""

        def begin(request: Request) -> Response:
            if request.headers["host"].lower() != urlsplit(door.origin).netloc.lower():
                return RedirectResponse(door.origin + BEGIN, status_code=303)  # there it will come back to
            try:
                attempt = door.begin()
            except FedjobError as error:
                return self._sign_in_page(request, 502, f"Nobody can sign in at {door.label} now: {error}")
            response = RedirectResponse(attempt.url, status_code=303)
            cookie = self._guard.attempt_cookie_of(attempt.secret, request.headers)
            response.headers.append("set-cookie", cookie)
            return response

        def back(request: Request) -> Response:
            answer = dict(request.query_params)
            try:
                if len(answer) != len(request.query_params.multi_items()):
                    raise NotPermitted("the answer of the provider says something twice: begin again")
                person = door.finish(self._guard.attempt_of(request.headers), answer)
            except FedjobError as error:
                status = 403 if isinstance(error, NotPermitted) else 502
                response = self._sign_in_page(request, status, f"Not signed in: {error}")
            else:
                # A browser that comes from another site shows the new cookie only to what this page asks for.
                response = self._entered(request, person, self._templates.render(request, "entered.html"))
            response.headers.append("set-cookie", self._guard.attempt_cookie_of("", request.headers))
            return response

        return [Route(BEGIN, begin, methods=["GET"]), Route(BEGIN + "/back", back, methods=["GET"])]

    def _sign_out(self, request: Request) -> Response:
        session = request.state.session
        self.sessions.end(self._guard.id_of(request.headers))
        target = SIGN_IN if session is None or session.person is None else f"{SIGN_IN}?left"
        response = RedirectResponse(target, status_code=303)
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
