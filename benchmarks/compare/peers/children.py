"""The processes that a peer needs: started here, and ended by their ids, in whatever way this process ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

STOP_S = 5.0


class Children:
    """Processes of one run; each writes its output into a file of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        signal.signal(signal.SIGTERM, _leave)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._started:
            each.terminate()
        until = time.monotonic() + STOP_S
        for each in self._started:
            try:
                each.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()

    def start(self, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process with these additions to the environment."""
        words = [str(word) for word in command]
        with (self._folder / f"{len(self._started)}.log").open("wb") as log:
            child = subprocess.Popen(
                words, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )
        self._started.append(child)
        return child

    def what_failed(self) -> str:
        """Return the last lines of every child's output, for an error."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(
            f"-- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]) for log in logs
        )


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_port(port: int, seconds: float) -> None:
    """Wait until somebody listens at a port of loopback.

    Raises:
        TimeoutError: nobody did in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody listens at port {port} after {seconds:.0f} s")


def wait_for_rounds(out: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Wait until a client has noted the end of the last round in a file; what comes after that is nobody's round.

    Raises:
        TimeoutError: it did not in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError, ValueError):  # not there yet, or half written
            found: dict[str, Any] = json.loads(out.read_text())
            if len(found["ends"]) >= rounds:
                return found
        time.sleep(0.1)
    raise TimeoutError(f"{rounds} rounds were not finished in {seconds:.0f} s")


def _leave(*_: object) -> None:
    """End as Ctrl-C does: what was started is ended on the way out."""
    raise SystemExit(128 + signal.SIGTERM)
