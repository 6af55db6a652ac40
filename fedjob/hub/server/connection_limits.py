"""Limits on HTTP connections that uvicorn lacks: long or slow headers, clients that do not read, idle strangers."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.client_certificates import CERTIFICATE

ABORT = "fedjob.abort"
"""Key in a request's ASGI scope: a function that drops the connection at once, unsent bytes included."""

READ_BYTES = 1 << 20
"""Bytes read from a connection at a time, and buffered of a body before the sender has to wait."""


_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; a request's head must be small and must arrive in time."""

    limits = HubLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._make_room()
        if hasattr(transport, "max_size"):  # what asyncio's socket transports read at a time
            transport.max_size = READ_BYTES
        self._certificate = _certificate_of(transport)
        self._head_bytes = 0
        self._in_body = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if not self._in_body and self._head_bytes > self.limits.header_bytes:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[ABORT] = self.transport.abort
        scope[CERTIFICATE] = self._certificate

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Do as the base class does, but pause at 1 MiB, not 64 KiB: each pause costs a turn of the loop."""
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
        super().on_response_complete()

    @property
    def _is_idle(self) -> bool:
        """True while no request is being answered, be it that none has come or that its head is still on the way."""
        return not self._in_body and (self.cycle is None or self.cycle.response_complete)

    def _make_room(self) -> None:
        """Where there are too many connections, close the one that has been idle for longest, or refuse this one.

        A client whose idle connection is closed opens another; a stranger who holds hundreds keeps nobody out.
        """
        others = [each for each in self.connections if isinstance(each, GuardedProtocol) and each is not self]
        if len(others) < self.limits.num_connections:
            return
        idle = [each for each in others if each._is_idle]
        if idle:
            min(idle, key=lambda each: each._idle_since).transport.abort()
            return
        self.transport.write(_BUSY)
        self.transport.close()

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


def _certificate_of(transport: asyncio.BaseTransport) -> bytes | None:
    """Return the certificate that a client showed in the TLS handshake, in DER."""
    secure: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return None if secure is None else secure.getpeercert(binary_form=True)
