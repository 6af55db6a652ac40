"""The two pages of a node, `/healthz` and `/metrics`, for this machine alone: they are served on loopback.

A page in a browser reads them as little as another machine does: a request that names
another host than loopback, or that a page of the web made, is refused.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from fedjob.common.errors import ConfigError, FedjobError, MissingPackage
from fedjob.common.network.addresses import is_loopback
from fedjob.common.telemetry.metrics import exposition
from fedjob.node.monitoring.measurements import Measurements

HOST = "127.0.0.1"
TIMEOUT_S = 5.0
MAX_CONNECTIONS = 8


class NodePages:
    """A small HTTP server, as a context manager.

    Args:
        port: of loopback; 0 for a free one.

    Raises:
        ConfigError: the port is in use, or may not be used.
    """

    def __init__(self, measurements: Measurements, port: int) -> None:
        places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        handler = type("_NodeHandler", (_Handler,), {"measurements": measurements, "places": places})
        try:
            self._server = ThreadingHTTPServer((HOST, port), handler)
        except OSError as error:
            raise ConfigError(
                f"metrics can't be served on {HOST} port {port}: {error.strerror or error}; "
                "choose another port: fedjob node config set metrics_port PORT"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="fedjob-pages", daemon=True)

    def __enter__(self) -> NodePages:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    measurements: Measurements
    places: threading.BoundedSemaphore
    timeout = TIMEOUT_S
    server_version = "fedjob"
    sys_version = ""

    def handle(self) -> None:
        if not self.places.acquire(blocking=False):
            return  # whoever holds all places is told by a closed connection
        try:
            with suppress(OSError):
                super().handle()
        finally:
            self.places.release()

    def do_GET(self) -> None:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if not is_loopback(host) or "Origin" in self.headers:
            self._answer(403, b"these pages are for this machine alone\n")
        elif self.path == "/healthz":
            health = self.measurements.health()
            self._answer(health.status, health.to_json(), "application/json")
        elif self.path == "/metrics":
            try:
                content, type_ = exposition(list(self.measurements.families()))
                self._answer(200, content, type_)
            except MissingPackage as error:
                self._answer(501, f"{error}\n".encode())
            except FedjobError:  # such as a database that is gone: health says so
                self._answer(503, b"the node can't be measured; /healthz says why\n")
        else:
            self._answer(404, b"there are /healthz and /metrics\n")

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, type_: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: a scrape every few seconds is no news."""
