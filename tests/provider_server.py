"""The HTTP side that made-up OpenID providers share: a server on a port of this machine, and forms that are read for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


class FormHandler(BaseHTTPRequestHandler):
    """A handler of requests that have at most a form; what it answers is written by who inherits from it."""

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer({name: values[0] for name, values in parse_qs(body).items()})

    def answer(self, form: dict[str, str]) -> None:
        """Answer a request.

        Args:
            form: its fields; empty for a GET.
        """
        raise NotImplementedError

    def begin(self, status: int, headers: Mapping[str, str], length: int) -> None:
        """Send all of an answer but its body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[None]:
    """Let a server answer on a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
