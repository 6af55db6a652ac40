"""An HTTP server between a researcher and the hub that fails where a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

import requests

Fault = Callable[[str, str], int]
"""(method, path) -> status to answer with, 0 to pass the request on."""


class FaultyProxy:
    """Passes requests on to a hub, but for those that `fault` wants answered otherwise."""

    def __init__(self, target: str) -> None:
        self.fault: Fault = lambda method, path: 0
        self.seen: list[tuple[str, str]] = []
        proxy, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    proxy.seen.append((self.command, self.path))
                    status = proxy.fault(self.command, self.path)
                if status:
                    self.answer(status, {}, b"")
                    return
                headers = {
                    k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")
                }
                reply = requests.request(
                    self.command,
                    target + self.path,
                    headers=headers,
                    data=body or None,
                    timeout=30,
                    stream=True,
                )
                kept = {
                    k: v
                    for k, v in reply.headers.items()
                    if k.lower() not in ("transfer-encoding", "date", "server", "connection")
                }
                self.answer(reply.status_code, kept, reply.raw.read())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in {name.lower() for name in headers}:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"{urlsplit(target).scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
