"""Faults of requests and answers: HTTP that is taken apart, spoiled, and passed on.

status, busy        answered with a status such as 503, or with 429 and Retry-After; the hub hears of nothing
hang_up             the connection ends in place of an answer; the hub hears of nothing
lose_answer         the hub has carried the request out, and the connection ends in place of its answer
send_twice          the hub gets the request twice, and the client the second answer
truncate            half of the body, then the connection ends
shorter_length      Content-Length names fewer bytes than come
longer_length       Content-Length names more bytes than ever come
flip_answer         a bit of the body is wrong
flip_request        a bit of the body that the hub gets is wrong
drip                a few bytes of the body at a time, with pauses
redirect            302 to a page elsewhere
stale, other_object the body of an earlier answer: to the same path but for its last part, or to any request
portal              200 with a page for people, as boxes with a login give it
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tests.faults.script import HTTP_FAULTS, Fault, Script
from tests.faults.serving import Stream

MAX_HEAD_BYTES = 64 << 10
NUM_REMEMBERED = 50
PAGE = b"<html><body>Please accept the terms of use of this network.</body></html>"


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """A request or an answer: its first line, its other lines, its body."""

    first: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def without(self, *names: str) -> HttpMessage:
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def with_body(self, body: bytes, length: int | None = None) -> HttpMessage:
        """Return the message with another body, and another length than it has if one is given."""
        plain = self.without("content-length", "transfer-encoding")
        named = ("Content-Length", str(len(body) if length is None else length))
        return HttpMessage(plain.first, (*plain.headers, named), body)

    @property
    def head(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(status: str, body: bytes = b"", **headers: str) -> HttpMessage:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return HttpMessage(f"HTTP/1.1 {status}", named).with_body(body)


async def read_head(reader: asyncio.StreamReader) -> HttpMessage | None:
    """Return the next message without its body; None where the connection ends before it."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return HttpMessage(first, tuple((name, value.strip()) for name, _, value in pairs))


async def read_body(reader: asyncio.StreamReader, head: HttpMessage, *, has_body: bool = True) -> HttpMessage:
    """Return a message with its body; one in chunks gets a length instead."""
    if not has_body:
        return head
    if head.header("transfer-encoding").lower() == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return head.with_body(body)
    return replace(head, body=await reader.readexactly(int(head.header("content-length") or 0)))


def for_server(head: HttpMessage) -> HttpMessage:
    """Return a request as a server gets it: its path alone, and nothing that is for a proxy."""
    method, target, version = head.first.split(" ", 2)
    parts = urlsplit(target)
    path = target
    if not target.startswith("/"):
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return replace(
        head.without("proxy-authorization", "proxy-connection"), first=f"{method} {path} {version}"
    )


class HttpFaults:
    """Passes requests of any number of connections on, and does to them what a script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._answers: deque[tuple[str, HttpMessage]] = deque(maxlen=NUM_REMEMBERED)

    async def carry(self, first: HttpMessage, client: Stream, server: Stream) -> None:
        """Serve one connection, whose first request has been read up to its body."""
        head: HttpMessage | None = first
        while head is not None:
            if not await self._exchange(await read_body(client.reader, head), client, server):
                return
            head = await read_head(client.reader)

    async def _exchange(self, request: HttpMessage, client: Stream, server: Stream) -> bool:
        """Answer a request; return whether the connection goes on."""
        request = for_server(request)
        method, path, _ = request.first.split(" ", 2)
        fault = self.script.draw(HTTP_FAULTS, f"{method} {path}")
        if fault is None:
            fine = await self._ask(request, method, path, server)
            await client.send(fine.head + (b"" if method == "HEAD" else fine.body))
            return fine.header("connection").lower() != "close"
        if (given := _given(fault)) is not None:
            self.script.count(fault)
            await client.send(given.head + (b"" if method == "HEAD" else given.body))
            return True
        if fault.kind == "hang_up":
            self.script.count(fault)
            return False
        if fault.kind == "flip_request" and request.body:
            self.script.count(fault)
            request = replace(request, body=self._flipped(request.body))
        if fault.kind == "send_twice":
            self.script.count(fault)
            await self._ask(request, method, path, server)
        found = await self._ask(request, method, path, server)
        if fault.kind == "lose_answer":
            self.script.count(fault)
            return False
        return await self._spoil(fault, found, path, client, has_body=method != "HEAD")

    async def _ask(self, request: HttpMessage, method: str, path: str, server: Stream) -> HttpMessage:
        await server.send(request.head + request.body)
        head = await read_head(server.reader)
        if head is None:
            raise EOFError("the server has gone")
        has_body = method != "HEAD" and head.first.split(" ")[1] not in ("204", "304")
        found = await read_body(server.reader, head, has_body=has_body)
        if method == "GET" and found.body and head.first.split(" ")[1] in ("200", "206"):
            self._answers.append((path, found))
        return found

    async def _spoil(
        self, fault: Fault, found: HttpMessage, path: str, client: Stream, *, has_body: bool
    ) -> bool:
        """Send an answer as a fault makes it; return whether the connection goes on."""
        body, half = found.body, len(found.body) // 2
        if not has_body or not body:
            await client.send(found.head)
            return True
        if fault.kind in ("stale", "other_object"):
            others = self._others(path, same_kind=fault.kind == "stale", unlike=body)
            if others:
                self.script.count(fault)
                body = others[self.script.pick(len(others))]
            await client.send(found.with_body(body).head + body)
            return True
        if fault.kind not in ("truncate", "shorter_length", "longer_length", "flip_answer", "drip"):
            await client.send(found.head + body)
            return True
        self.script.count(fault)
        match fault.kind:
            case "truncate":
                await client.send(found.head + body[:half])
            case "shorter_length":
                await client.send(found.with_body(body, half).head + body)
            case "longer_length":
                await client.send(found.with_body(body, len(body) + 1000).head + body)
                await asyncio.sleep(fault.seconds)
            case "flip_answer":
                await client.send(found.head + self._flipped(body))
                return True
            case "drip":
                await client.send(found.head)
                step = max(1, len(body) // 10)
                for start in range(0, len(body), step):
                    await asyncio.sleep(fault.seconds / 10)
                    await client.send(body[start : start + step])
                return True
        return False

    def _others(self, path: str, *, same_kind: bool, unlike: bytes) -> list[bytes]:
        """Return bodies that were answered to other requests."""
        folder = path.rpartition("/")[0]
        return [
            other.body
            for asked, other in self._answers
            if other.body != unlike and (not same_kind or asked.rpartition("/")[0] == folder)
        ]

    def _flipped(self, body: bytes) -> bytes:
        at = self.script.pick(len(body))
        return body[:at] + bytes([body[at] ^ 1 << self.script.pick(8)]) + body[at + 1 :]


def _given(fault: Fault) -> HttpMessage | None:
    """Return what a fault answers by itself."""
    match fault.kind:
        case "status":
            return answer(f"{fault.num or 503} Trouble", b'{"error": "made by a test"}')
        case "busy":
            return answer("429 Too Many Requests", Retry_After=str(int(fault.seconds) or 1))
        case "redirect":
            return answer("302 Found", Location="http://192.0.2.1/elsewhere")
        case "portal":
            return answer("200 OK", PAGE, Content_Type="text/html")
    return None
