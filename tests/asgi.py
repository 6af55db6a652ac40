"""Requests to an ASGI application in this process, without a server: for pages whose answers are looked at byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | Sequence[bytes] = b"",
    query: str = "",
) -> Answer:
    """Send one request and return the whole answer."""
    parts = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    asyncio.run(app(scope, receive, send))
    start = next(message for message in sent if message["type"] == "http.response.start")
    return Answer(
        start["status"],
        tuple((key.decode(), value.decode("latin-1")) for key, value in start["headers"]),
        b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body"),
    )


class Visitor:
    """A browser's part of a conversation with a page: the address, the cookie, the word of the session."""

    def __init__(self, site: Any, origin: str) -> None:
        self.site, self.origin, self.cookie, self.csrf = site, origin, "", ""

    def headers(self) -> list[tuple[str, str]]:
        host = self.origin.partition("//")[2]
        return [("host", host), *([("cookie", self.cookie)] if self.cookie else [])]

    def get(self, path: str, query: str = "") -> Answer:
        return call(self.site.app, path, headers=self.headers(), query=query)

    def post(self, path: str, form: Mapping[str, Any] | None = None, *, csrf: bool = True) -> Answer:
        fields = {**({"csrf": self.csrf} if csrf and self.csrf else {}), **(form or {})}
        headers = [
            *self.headers(),
            ("origin", self.origin),
            ("content-type", "application/x-www-form-urlencoded"),
        ]
        body = urlencode(fields, doseq=True).encode()
        return call(self.site.app, path, method="POST", headers=headers, body=body)

    def enter(self) -> Answer:
        """Sign in by a link."""
        answer = self.post("/enter", {"link": self.site.link().partition("#")[2]}, csrf=False)
        self.cookie = answer.header("set-cookie").split(";")[0]
        session = self.site.sessions.find(self.cookie.partition("=")[2])
        self.csrf = session.csrf if session else ""
        return answer
