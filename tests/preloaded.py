"""Processes that are forked from one which has imported torch and fedjob already, so that none pays for it anew.

What is forked is a process like any other: a session, signal handlers, environment, working folder, streams,
random states and an exit status of its own. Only `/proc/PID/cmdline` and `/proc/PID/environ` stay those of the
server, so nothing goes this way that is looked for there.

The server is `python -m tests.preloaded FD`. A request is one packet, a JSON map, with four descriptors: the
three streams, and a socket on which the server writes first the process's id and then its exit status.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0
"""The first start waits for the server's imports."""
MAX_PACKET_BYTES = 128 << 10

MODULES = (
    "numpy",
    "torch",
    "torch._dynamo",
    "fedjob.cli",
    "fedjob.node.cli",
    "fedjob.node.startup",
    "fedjob.protocols.training.fedavg",
    "fedjob.researcher.cli.control",
    "fedjob.researcher.cli.result",
    "fedjob.researcher.cli.show",
    "fedjob.researcher.cli.submit",
    "fedjob.researcher.cli.watch",
    "fedjob.researcher.jobs.job",
    "fedjob.researcher.jobs.script",
    "fedjob.researcher.jobs.session",
    "fedjob.researcher.runner.control",
    "fedjob.researcher.runner.wait",
    "fedjob.researcher.storage.search",
)


class Forked:
    """A process forked from the server; used as a `subprocess.Popen` is."""

    def __init__(self, line: socket.socket) -> None:
        self.returncode: int | None = None
        self._line = line
        self._read = b""
        self._lock = threading.Lock()
        line.settimeout(START_TIMEOUT_S)
        self.pid = int(self._next() or b"0")
        if not self.pid:
            raise ChildProcessError("the server of preloaded processes has ended")

    def poll(self) -> int | None:
        """Return the exit status, minus the signal's number after a signal; None while it runs."""
        with suppress(TimeoutError):
            return self.wait(0.001)
        return None

    def wait(self, timeout: float) -> int:
        """Return the exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        with self._lock:
            if self.returncode is None:
                self._line.settimeout(max(timeout, 0.001))
                try:
                    line = self._next()
                except TimeoutError:
                    raise Late(f"process {self.pid}", timeout) from None
                self.returncode = int(line) if line else -signal.SIGKILL
                self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _next(self) -> bytes:
        """Return the next line, empty when the server is gone."""
        while b"\n" not in self._read:
            if not (received := self._line.recv(64)):
                return b""
            self._read += received
        line, _, self._read = self._read.partition(b"\n")
        return line


class Late(subprocess.TimeoutExpired, TimeoutError):
    """A process runs on after the time that was given to it."""


class Server:
    """The process from which others are forked."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = dict(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=ROOT,
            )

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment would have imported the same, with the same number of threads."""
        names = {*environment, *self._environment}
        return all(
            environment.get(name) == self._environment.get(name)
            for name in names
            if name.startswith(("PYTHON", "OMP_", "MKL_", "TORCH", "LD_")) and name != "PYTHONUNBUFFERED"
        )

    def start(
        self,
        words: Sequence[str],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> Forked:
        """Start `python -m MODULE`, `python -c TEXT` or a console script of this environment, without input."""
        request = {"words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        ours, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb") as nothing:
            streams = [stream.fileno() for stream in (nothing, stdout, stderr)]
            socket.send_fds(self._control, [json.dumps(request).encode()], [*streams, theirs.fileno()])
        return Forked(ours)

    def close(self) -> None:
        """End the server and what it forked."""
        self._control.close()
        self._process.wait(START_TIMEOUT_S)


_servers: list[Server] = []
_lock = threading.Lock()


def server() -> Server:
    """Return this process's server, started when it is asked for first."""
    with _lock:
        if not _servers:
            _servers.append(Server())
        return _servers[0]


def close() -> None:
    """End this process's server, if there is one."""
    with _lock:
        while _servers:
            _servers.pop().close()


def run(
    words: Sequence[str], *, env: Mapping[str, str], timeout_s: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run what `Server.start` can start to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = server().start(words, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
        try:
            status = process.wait(timeout_s)
        except BaseException:
            process.kill()
            process.wait(START_TIMEOUT_S)
            raise
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess(list(words), status, *texts)


# --- in the server ---------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Import, then fork as is asked for until the tests are gone."""
    control = socket.socket(fileno=descriptor)
    gc.disable()
    for module in MODULES:
        import_module(module)
    for library in weakref.finalize._registry:  # type: ignore[attr-defined]
        library.atexit = False  # each child would undo torch's registrations at its end, page by page
    gc.collect()
    gc.freeze()
    gc.enable()
    wanted = _serve(control)
    if wanted is not None:
        _be(wanted)


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork at each request. Return in the child, with the request; and None when there is nobody to ask."""
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    lines: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    with suppress(BlockingIOError):
                        woken.recv(4096)
                    continue
                packet, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET_BYTES, 4)
                if not packet:
                    for pid in lines:
                        with suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    return None
                line = socket.socket(fileno=descriptors.pop())
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for closable in (control, woken, waker, line, *lines.values()):
                        closable.close()
                    return {**json.loads(packet), "streams": descriptors}
                for stream in descriptors:
                    os.close(stream)
                lines[pid] = line
                line.sendall(f"{pid}\n".encode())
            _reap(lines)


def _reap(lines: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in lines:
                with lines.pop(pid) as line, suppress(OSError):
                    line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _be(wanted: dict[str, Any]) -> None:
    """Do in a forked child what the interpreter does in a new process: run the command, and end."""
    os.setsid()
    for number, stream in enumerate(wanted["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    os.chdir(wanted["cwd"])
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    status = _status_of(wanted["words"])
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


def _status_of(words: list[str]) -> int:
    """Run a command in this process; return its exit status."""
    try:
        if words[1:2] == ["-m"]:
            sys.argv = words[2:]
            sys.path[0] = os.getcwd()
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        elif words[1:2] == ["-c"]:
            sys.argv = words[1:2] + words[3:]
            sys.path[0] = ""
            exec(compile(words[2], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            sys.path[0] = str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
