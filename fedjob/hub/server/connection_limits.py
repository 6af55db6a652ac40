"""Limits on HTTP connections that uvicorn lacks: long or slow headers, clients that do not read, idle strangers.

And the two ways around it, for connections without TLS: the system itself sends a file, without a copy in this process;
and threads receive a large body from the connection, each block into the same memory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from fedjob.common.errors import FedjobError
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Refusals, network_of
from fedjob.hub.server.client_certificates import CERTIFICATE

ABORT = "fedjob.abort"
"""Key in a request's ASGI scope: a function that drops the connection at once, unsent bytes included."""

PROTECT = "fedjob.protect"
"""Key in a request's ASGI scope: a function to call once its sender is known, whose connection then makes no room."""

SEND_FILE = "fedjob.send_file"
"""Key in a request's ASGI scope: `GuardedProtocol.send_file` for its response; missing where the connection has TLS."""

SENT_BYTES = "fedjob.sent_bytes"
"""Key in a request's ASGI scope: the bytes of the response's body that went around `send`."""

BODY_LINE = "fedjob.body_line"
"""Key in a request's ASGI scope: `GuardedProtocol.body_line` for its body; missing where the connection has TLS."""

RECEIVED_BYTES = "fedjob.received_bytes"
"""Key in a request's ASGI scope: the bytes of its body that went around `receive`."""

SENDFILE_BYTES = 4 << 20
"""Bytes that the system is asked to send at once; a socket's buffer bounds them before that."""

MAX_PIPELINED = 16
"""Requests that may come before the answers to earlier ones on the same connection."""

READ_BYTES = 1 << 20
"""Bytes read from a connection at a time, and buffered of a body before the sender has to wait."""

BLOCK_BYTES = 256 << 10
"""Bytes of a body that a thread receives and hands on at a time: they are in the processor's cache meanwhile."""

TURN_BYTES = 4 << 20
"""Bytes of one body after which a thread of the pool turns to what else waits."""

WAKE_BYTES = 128 << 10
"""Bytes of a body that have to be there for a thread to be woken, unless its end or its time has come."""


_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class ClientGone(FedjobError):
    """The client closed the connection, so that no response can be sent."""


class BodyLine:
    """The rest of a request's body, received from its connection by threads of a pool. None of them waits for the client.

    Args:
        first: bytes that have come already.
        left: bytes that are still to come, without those.
        lost: whether the connection has been closed here.
        ended: called once, with the number of bytes received and whether the body is complete.
    """

    _memory = threading.local()

    def __init__(
        self,
        connection: socket.socket,
        first: bytes,
        left: int,
        *,
        lost: Callable[[], bool],
        ended: Callable[[int, bool], None],
    ) -> None:
        self._connection = connection
        self._first = first
        self._lost = lost
        self._ended = ended
        self._size = self.left = left + len(first)
        self._readable: asyncio.Future[None] | None = None
        self._wake_bytes = 0

    def receive(self, take: Callable[[memoryview], object]) -> int:
        """Hand on what has come, `TURN_BYTES` at most; return its bytes. For a thread: it never waits for the client.

        Raises:
            ClientGone: the client closed the connection before the end of the body.
        """
        received = 0
        while self.left and received < TURN_BYTES:
            try:
                block = self._next()
            except BlockingIOError:
                break
            except OSError:
                raise ClientGone from None
            if not block:
                raise ClientGone
            self.left -= len(block)
            received += len(block)
            take(block)
        return received

    async def until_readable(self, deadline: float) -> None:
        """Wait for more bytes, or for the connection to be lost, but not beyond a time of the loop's clock.

        Raises:
            ClientGone: the connection was closed here.
        """
        loop = asyncio.get_running_loop()
        self._wake_at(min(WAKE_BYTES, self.left))
        self._readable = readable = loop.create_future()
        loop.add_reader(self._connection, _set, readable)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await readable
        finally:
            loop.remove_reader(self._connection)
            self._readable = None
        self.check()

    def check(self) -> None:
        """Raise ClientGone if the connection was closed here."""
        if self._lost():
            raise ClientGone

    def wake(self) -> None:
        """End the wait for more bytes."""
        if self._readable is not None:
            _set(self._readable)

    def close(self) -> None:
        """Give the connection back; if the body is not complete, it takes no further request."""
        self._wake_at(1)
        self._connection.close()
        self._ended(self._size - self.left, self.left == 0)

    def _next(self) -> memoryview:
        if self._first:
            block, self._first = memoryview(self._first), b""
            return block
        memory = getattr(self._memory, "block", None)
        if memory is None:
            memory = self._memory.block = memoryview(bytearray(BLOCK_BYTES))
        return memory[: self._connection.recv_into(memory[: self.left])]

    def _wake_at(self, num_bytes: int) -> None:
        if num_bytes != self._wake_bytes:
            with suppress(OSError):  # it wakes at the first byte then
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, num_bytes)
            self._wake_bytes = num_bytes


class GuardedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; a request's head must be small and must arrive in time."""

    limits = HubLimits()
    refusals = Refusals()
    proxies: tuple[str, ...] = ()
    by_address: ClassVar[defaultdict[str, set[GuardedProtocol]]] = defaultdict(set)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._is_protected = False
        self._address = network_of(self.client[0] if self.client else "")
        self.by_address[self._address].add(self)
        self._make_room()
        if hasattr(transport, "max_size"):  # what asyncio's socket transports read at a time
            transport.max_size = READ_BYTES
        self._certificate = _certificate_of(transport)
        self._head_bytes = 0
        self._in_body = False
        self._writable: asyncio.Future[None] | None = None
        self._line: BodyLine | None = None
        self._body_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._leave_address()
        super().connection_lost(exc)
        if self._writable is not None:
            _set(self._writable)
        if self._line is not None:
            self._line.wake()

    def handle_websocket_upgrade(self) -> None:
        self._leave_address()  # it counts among the broker's clients from now on
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if not self._in_body and self._head_bytes > self.limits.header_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.refusals.count("pipelined requests", f"from {self._address}, without waiting for answers")
            raise ValueError("too many requests before the answers to earlier ones")
        super().on_message_begin()
        self._field_bytes = 0
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[ABORT] = self._abort
        scope[PROTECT] = self._protect
        scope[CERTIFICATE] = self._certificate

    def on_url(self, url: bytes) -> None:
        self._count_field(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_field(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._head_bytes = self._body_bytes = 0
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.transport.get_extra_info("ssl_object") is None:
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope[SEND_FILE] = partial(self.send_file, self.cycle)
            scope[BODY_LINE] = partial(self.body_line, self.cycle)

    def on_body(self, body: bytes) -> None:
        """Do as the base class does, but pause at 1 MiB, not 64 KiB: each pause costs a turn of the loop."""
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > READ_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        self._is_protected = False
        super().on_response_complete()

    async def send_file(
        self, cycle: RequestResponseCycle, descriptor: int, start: int, end: int, pool: Executor
    ) -> bool:
        """Have the system send a range of a file, on the threads of a pool, as the next bytes of a response's body.

        The bytes go from the page cache to the connection; this process neither reads nor copies them. An end of the
        body that is sent as usual has to follow.

        Args:
            cycle: of the request whose head of a response has been sent.
            pool: a thread of it waits for the disk, and never for the client.

        Returns:
            False if nothing was sent, because earlier bytes still wait in this process.

        Raises:
            ClientGone: the client closed the connection, or the file is shorter.
            OSError: the connection broke, or the client took nothing for `idle_s`.
        """
        if self.transport.get_write_buffer_size():
            return False
        line = os.dup(self.transport.get_extra_info("socket").fileno())
        sending: asyncio.Future[int] | None = None
        at = start
        try:
            while at < end:
                if cycle.disconnected:
                    raise ClientGone
                try:
                    sending = self.loop.run_in_executor(
                        pool, os.sendfile, line, descriptor, at, min(SENDFILE_BYTES, end - at)
                    )
                    count = await asyncio.shield(sending)
                except BlockingIOError:
                    await self._until_writable(line)
                    continue
                if count == 0:
                    raise ClientGone  # the file shrank: its hash would not match anyway
                at += count
                cycle.expected_content_length -= count
                cycle.scope[SENT_BYTES] = at - start  # type: ignore[literal-required]
        finally:
            if sending is not None:
                await asyncio.wait({sending})  # its thread must be done with a number that is free afterwards
            os.close(line)
        return True

    def body_line(self, cycle: RequestResponseCycle, size_bytes: int) -> BodyLine | None:
        """Give the connection to whoever receives the rest of a request's body from it, until `close` of what is returned.

        Args:
            size_bytes: of the whole body, as its Content-Length says.

        Returns:
            None if the body has come, or has no Content-Length to end it.
        """
        is_chunked = any(name == b"transfer-encoding" for name, _ in cycle.scope["headers"])
        left = size_bytes - self._body_bytes
        if self.cycle is not cycle or not self._in_body or is_chunked or left <= 0 or cycle.disconnected:
            return None
        self.flow.pause_reading()
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        first, cycle.body = bytes(cycle.body), bytearray()
        self._line = BodyLine(
            self.transport.get_extra_info("socket").dup(),
            first,
            left,
            lost=lambda: cycle.disconnected,
            ended=partial(self._body_received, cycle),
        )
        return self._line

    def _body_received(self, cycle: RequestResponseCycle, num_bytes: int, is_complete: bool) -> None:
        """Go on behind a body that was received around the parser, which waits for it in vain: a new one begins there."""
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        scope[RECEIVED_BYTES] = num_bytes
        self._line = None
        cycle.more_body = False
        cycle.message_event.set()
        if not is_complete:
            cycle.keep_alive = False
        elif self.parser is not None:  # which it is on a connection that was lost
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._in_body = False

    async def _until_writable(self, line: int) -> None:
        """Wait until the system takes more bytes of a response, or the connection is lost."""
        self._writable = writable = self.loop.create_future()
        self.loop.add_writer(line, _set, writable)
        try:
            async with asyncio.timeout(self.limits.idle_s):
                await writable
        finally:
            self.loop.remove_writer(line)
            self._writable = None

    @property
    def _is_idle(self) -> bool:
        """True while no request is being answered, be it that none has come or that its head is still on the way."""
        return not self._in_body and (self.cycle is None or self.cycle.response_complete)

    def _abort(self) -> None:
        """Drop the connection; what the system would still send of it is dropped, too, however slowly it is read."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _protect(self) -> None:
        self._is_protected = True

    def _count_field(self, num_bytes: int) -> None:
        """Count a part of a request's head, or of what follows its body; all of it may come in one block."""
        self._field_bytes += num_bytes
        if self._field_bytes > self.limits.header_bytes:
            self._refuse_head()
            raise ValueError("the head of a request is too long")

    def _refuse_head(self) -> None:
        self.refusals.count(
            "long heads", f"a request from {self._address} has more than {self.limits.header_bytes}"
        )
        self.transport.abort()

    def _leave_address(self) -> None:
        there = self.by_address[self._address]
        there.discard(self)
        if not there:
            self.by_address.pop(self._address, None)

    def _make_room(self) -> None:
        """Where there are too many connections, close one, or refuse this one.

        First goes the one that is idle for longest, then one whose request is not known to be a party's; of all addresses
        the one that has most. A client whose idle connection is closed opens another; a stranger who holds hundreds
        keeps nobody out.
        """
        there = self.by_address[self._address]
        is_proxy = self._address in self.proxies
        if len(there) > self.limits.address_connections and not is_proxy:
            self._close_one(there)
        elif sum(map(len, self.by_address.values())) > self.limits.num_connections:
            crowds = sorted(self.by_address.values(), key=len, reverse=True)
            self._close_one(next((crowd for crowd in crowds if self._first_to_go(crowd)), there))

    def _close_one(self, crowd: set[GuardedProtocol]) -> None:
        self.refusals.count("connections", f"{self._address} or others hold too many (num_connections)")
        victim = self._first_to_go(crowd)
        if victim is not None:
            victim._leave_address()  # the loop drops it a moment later
            victim.transport.abort()
            return
        self.transport.write(_BUSY)
        self.transport.close()

    def _first_to_go(self, crowd: set[GuardedProtocol]) -> GuardedProtocol | None:
        candidates = [each for each in crowd if each is not self and not each._is_protected]
        return min(candidates, key=lambda each: (not each._is_idle, each._idle_since), default=None)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.idle_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket as uvicorn speaks it, with the client's certificate in the scope."""

    async def run_asgi(self) -> None:
        """Do as the base class does, which makes the scope just before."""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[CERTIFICATE] = _certificate_of(self.transport)
        await super().run_asgi()


def _set(waited_for: asyncio.Future[None]) -> None:
    if not waited_for.done():
        waited_for.set_result(None)


def _certificate_of(transport: asyncio.BaseTransport) -> bytes | None:
    """Return the certificate that a client showed in the TLS handshake, in DER."""
    secure: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return None if secure is None else secure.getpeercert(binary_form=True)
