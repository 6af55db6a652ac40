"""The hub's HTTP server, as a process runs it and as a thread runs it in tests and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from fedjob.common.errors import ConfigError
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Refusals
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.connection_limits import READ_BYTES, GuardedProtocol, WebSocketProtocol

KEEP_ALIVE_S = 75
PING_S = 25.0
"""Between pings over a WebSocket: boxes on the way close what is idle for a minute."""

GRACE_S = 5
BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`; port 0 means a free one.

    Raises:
        ConfigError: the address can't be used; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without naming TCP, asyncio does not set TCP_NODELAY, and a small response takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"can't listen on {host} port {port}: {error.strerror or error}; is another hub running? "
            "Choose another port, or 0 for a free one"
        ) from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process that runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def make_server(
    app: ASGIApp,
    limits: HubLimits,
    tls: TlsFiles | None = None,
    client_authority: Path | None = None,
    *,
    refusals: Refusals | None = None,
    proxies: tuple[str, ...] = (),
) -> uvicorn.Server:
    """Return a server; `serve(sockets=[...])` runs it until `should_exit`.

    Args:
        client_authority: see `TlsFiles.context`.
        refusals: the counts of what is refused.
        proxies: addresses of web servers before the hub, whose number of connections is theirs alone to bound.
    """
    facts = {
        "limits": limits,
        "refusals": refusals or Refusals(),
        "proxies": proxies,
        "by_address": defaultdict(set),
    }
    protocol = type("LimitedProtocol", (GuardedProtocol,), facts)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws=WebSocketProtocol,
        ws_max_size=READ_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
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
        limit_concurrency=limits.num_connections + limits.num_sessions + limits.num_logins,
        ssl_context_factory=None if tls is None else lambda *_: tls.context(client_authority),
    )
    return _Server(config)


class ServiceThread:
    """An application served from a thread of this process, as a context manager.

    Args:
        make_app: builds the application, on the thread that runs it.
    """

    def __init__(
        self,
        make_app: Callable[[], ASGIApp],
        *,
        limits: HubLimits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: TlsFiles | None = None,
        client_authority: Path | None = None,
    ) -> None:
        self._client_authority = client_authority
        self._listener = listen(host, port)
        self._make_app = make_app
        self._limits = limits or HubLimits()
        self._tls = tls
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="fedjob-http", daemon=True)
        scheme = "http" if tls is None else "https"
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{scheme}://{host}:{self.port}"

    def _run(self) -> None:
        async def serve() -> None:
            self._server = make_server(self._make_app(), self._limits, self._tls, self._client_authority)
            await self._server.serve(sockets=[self._listener])

        asyncio.run(serve())

    def __enter__(self) -> ServiceThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(GRACE_S + 10)
        self._listener.close()
