"""The guard before every request of a page: its host, its method, where it comes from, its size, its session.

What a page on the web, another server on this machine or a frame can make a browser send ends here: a request is
served only under an address of this page, what changes something only when it is a form of this page with the word
of the session that it was made for, and nothing of an answer may run, be framed, or be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedjob.common.errors import ConfigError
from fedjob.common.pages.sessions import PageSessions, same

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 200
BODY_WITHIN_S = 10.0
SIGN_IN = "/enter"
STATIC = "/static/"

_FORM = "application/x-www-form-urlencoded"
_METHODS = ("GET", "HEAD", "POST")

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # not `no-referrer`: with that a browser would hide the origin of this page's own forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}


class PageGuard:
    """An application of a page, guarded.

    A handler finds the session as `request.state.session`, and the fields of a form, name -> values, as
    `request.state.form`.

    Args:
        origins: addresses of the page, such as `http://127.0.0.1:8123`; the first is the one that is shown.
        cookie: name of the session's cookie. A browser keeps one jar for all ports of a host, so that two pages need
            two names.
    """

    def __init__(self, app: ASGIApp, sessions: PageSessions, *, origins: Iterable[str], cookie: str) -> None:
        self._app = app
        self._sessions = sessions
        self._origins = {urlsplit(origin).netloc.lower(): origin.lower() for origin in origins}
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say why not."""
        if scope["type"] != "http":
            return  # a page has no WebSockets, and nothing that begins with it
        headers = Headers(scope=scope)
        guarded = _with_headers(send, secure=self._is_secure(headers))
        refusal = self._refusal(scope, headers)
        if refusal is None:
            refusal = await self._admit(scope, headers, receive)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def cookie_of(self, id_: str, headers: Headers) -> str:
        """Return the header that gives a browser a session."""
        secure = "; Secure" if self._is_secure(headers) else ""
        return f"{self._cookie}={id_}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def attempt_cookie_of(self, secret: str, headers: Headers) -> str:
        """Return the header that lets a browser come back from a provider; an empty secret takes it away.

        A browser that another site sends here carries no cookie of `SameSite=Strict`.
        """
        secure = "; Secure" if self._is_secure(headers) else ""
        ends = "" if secret else "; Max-Age=0"
        return f"{self._cookie}-sign-in={secret}; Path={SIGN_IN}; HttpOnly; SameSite=Lax{secure}{ends}"

    def attempt_of(self, headers: Headers) -> str:
        """Return the secret of a sign-in that has begun in this browser; empty for none."""
        return self._value(headers, f"{self._cookie}-sign-in")

    def id_of(self, headers: Headers) -> str:
        """Return the session's id that a request carries; empty for none."""
        return self._value(headers, self._cookie)

    def _value(self, headers: Headers, name: str) -> str:
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except CookieError:
            return ""
        found = jar.get(name)
        return "" if found is None else found.value

    def _is_secure(self, headers: Headers) -> bool:
        return self._origins.get(headers.get("host", "").lower(), "").startswith("https:")

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return why a request is refused by its head alone."""
        hosts = headers.getlist("host")
        own = self._origins.get(hosts[0].lower()) if len(hosts) == 1 else None
        if own is None:
            shown = next(iter(self._origins.values()))
            return _refused(421, f"This page is served as {shown} and under no other name.")
        method = scope["method"]
        if method not in _METHODS:
            return _refused(405, "A page is read with GET and changed with POST.", allow=", ".join(_METHODS))
        site = headers.get("sec-fetch-site", "same-origin")
        if method != "POST":
            # a link on another page may open this one, without its session: nothing else of it may be loaded
            is_link = (
                headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            )
            if site not in ("same-origin", "none") and not is_link:
                return _refused(403, "Another page may not load anything of this one.")
            return None
        origin = headers.getlist("origin")
        if origin != [own] or site not in ("same-origin", "none"):
            return _refused(403, "A form is taken only from this page itself.")
        if headers.get("content-type", "").split(";")[0].strip().lower() != _FORM:
            return _refused(415, f"A form is sent as {_FORM}.")
        length = headers.get("content-length", "")
        if length and not (length.isdecimal() and length.isascii() and int(length) <= MAX_BODY_BYTES):
            return _refused(413, f"A form has at most {MAX_BODY_BYTES // 1024} KiB.")
        return None

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive) -> Response | None:
        """Give a request its session and its form; return why it is refused."""
        path, method = scope["path"], scope["method"]
        session = self._sessions.find(self.id_of(headers))
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["session"], state["form"], state["guard"] = session, {}, self
        is_open = path == SIGN_IN or path.startswith((STATIC, SIGN_IN + "/"))
        if session is None and not is_open:
            if method == "POST":
                return _refused(403, "The session has ended: sign in again; nothing was changed.")
            return RedirectResponse(SIGN_IN, status_code=303)
        if method != "POST":
            return None
        form = await _read_form(receive)
        if isinstance(form, Response):
            return form
        words = form.pop("csrf", [])
        if path != SIGN_IN and (session is None or len(words) != 1 or not same(words[0], session.csrf)):
            return _refused(403, "The form is not of this session: open the page again; nothing was changed.")
        state["form"] = form
        return None


async def _read_form(receive: Receive) -> dict[str, list[str]] | Response:
    """Return the fields of a form, name -> values, or why they can't be had."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return _refused(400, "The form did not arrive whole.")
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    return _refused(413, f"A form has at most {MAX_BODY_BYTES // 1024} KiB.")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        return _refused(408, f"The form did not arrive within {BODY_WITHIN_S:.0f} s.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            max_num_fields=MAX_FIELDS,
            errors="strict",
        )
    except ValueError:
        return _refused(400, "The form can't be read.")
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form


def field_of(form: Mapping[str, list[str]], name: str) -> str:
    """Return the one value of a field without blanks around it; empty where it was not sent.

    Raises:
        ConfigError: it was sent twice, or holds a null byte.
    """
    values = form.get(name, [])
    if len(values) > 1 or "\0" in "".join(values):
        raise ConfigError(f"the field {name!r} is no single text")
    return values[0].strip() if values else ""


def _refused(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(text + "\n", status_code=status, headers=headers)


def _with_headers(send: Send, *, secure: bool) -> Send:
    """Return a `send` that puts the security headers into every answer."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            if secure:
                headers["strict-transport-security"] = "max-age=31536000"
        await send(message)

    return guarded
