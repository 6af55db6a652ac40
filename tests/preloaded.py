"""Processes that are forked from one which has imported torch and fedjob already, so that none pays for it anew.

What is forked is a process like any other: a session, signal handlers, environment, working folder, streams,
random states and an exit status of its own. Only `/proc/PID/cmdline` and `/proc/PID/environ` stay those of the
server, so nothing goes this way that is looked for there.

The server is `python -m tests.preloaded CONTROL DOOR FOLDER`. Whoever wants a process connects to its door and sends
one packet, with descriptors; the server answers with the process's id and then with its exit status, or hangs up where
it can't fork such a process. When a line is closed before, the process is killed. What forked processes start with
their own interpreter (`sys.executable`) is forked in the same way, see `tests.stand_in`.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import F_DUPFD, fcntl
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0
"""The first start waits for the server's imports."""
MAX_PACKET_BYTES = 192 << 10
MAX_DESCRIPTORS = 64
_INSTALLED = [place for place in sys.path if "site-packages" in place or "lib/python" in place]
SHARED = "PRELOADED_SERVER"
"""The setting that names the folder of the server for processes that did not start it."""

MODULES = (
    "numpy",
    "torch",
    "torch._dynamo",
    "pandas",
    "bandit.cli.main",
    "ipykernel.kernelapp",
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
    """The process from which others are forked.

    Args:
        folder: of a server that runs already; by default one is started.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
            self._start(folder)
        self.folder = folder

    def _start(self, folder: Path) -> None:
        self._control, theirs = socket.socketpair()
        stand_in = (ROOT / "tests" / "stand_in.py").read_text(encoding="utf-8")
        (folder / "python").write_text(f"#!{sys.executable} -IS\n{stand_in}", encoding="utf-8")
        (folder / "python").chmod(0o755)
        for script in Path(sys.executable).parent.glob("fedjob*"):
            (folder / script.name).symlink_to(script)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.bind(str(folder / "door"))
            door.listen(100)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.preloaded",
                    str(theirs.fileno()),
                    str(door.fileno()),
                    str(folder),
                ],
                pass_fds=[theirs.fileno(), door.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=ROOT,
            )

    @property
    def python(self) -> str:
        """The interpreter whose processes are forked from this server, see `tests.stand_in`."""
        return str(self.folder / "python")

    def start(
        self,
        words: Sequence[str],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> Forked:
        """Start `python -m MODULE`, `python -c TEXT` or a script of Python, without input."""
        settings = [f"{name}={value}" for name, value in env.items()]
        parts = [str(cwd or Path.cwd()), "3", str(len(words)), "0", "1", "2", *words, *settings]
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.settimeout(START_TIMEOUT_S)
        with open(os.devnull, "rb") as nothing:
            streams = [stream.fileno() for stream in (nothing, stdout, stderr)]
            line.connect(str(self.folder / "door"))
            socket.send_fds(line, ["\0".join(parts).encode("utf-8", "surrogateescape")], streams)
        return Forked(line)

    def close(self) -> None:
        """End the server and what it forked, if this process started it."""
        if self._process is not None:
            self._control.close()
            self._process.wait(START_TIMEOUT_S)
            shutil.rmtree(self.folder, ignore_errors=True)


_servers: list[Server] = []
_lock = threading.Lock()


def server() -> Server:
    """Return the server, started when it is asked for first; with pytest-xdist there is one for all workers."""
    with _lock:
        if not _servers:
            shared = os.environ.get(SHARED)
            _servers.append(Server(Path(shared) if shared else None))
            os.environ[SHARED] = str(_servers[0].folder)
        return _servers[0]


def close() -> None:
    """End the server, if this process started it."""
    with _lock:
        while _servers:
            _servers.pop().close()


@contextmanager
def interpreter(path: str) -> Iterator[None]:
    """Have this process start others with an interpreter: `server().python`, or Python itself."""
    before, sys.executable = sys.executable, path
    try:
        yield
    finally:
        sys.executable = before


def fits(environment: Mapping[str, str], other: Mapping[str, str] = os.environ) -> bool:
    """Whether processes with these environments import the same, with the same number of threads."""
    names = {*environment, *other} - {"PYTHONUNBUFFERED", "PYTHONPATH"}
    return not _shadows(environment.get("PYTHONPATH", "")) and all(
        environment.get(name) == other.get(name)
        for name in names
        if name.startswith(("PYTHON", "OMP_", "MKL_", "TORCH_", "LD_"))
    )


def _shadows(places: str) -> bool:
    """Whether a PYTHONPATH has a module that goes before an installed one, or that Python imports at its start."""
    for place in filter(None, places.split(os.pathsep)):
        if Path(place).resolve() == ROOT:
            continue
        for found in Path(place).glob("*"):
            name = (
                found.stem
                if found.suffix == ".py"
                else found.name
                if (found / "__init__.py").exists()
                else ""
            )
            if name in ("sitecustomize", "usercustomize") or (
                name.isidentifier() and PathFinder.find_spec(name, _INSTALLED) is not None
            ):
                return True
    return False


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


@dataclass
class Wanted:
    """A process to be: its words, where, with what, and the descriptors that are to have these numbers."""

    folder: str
    words: list[str]
    environment: dict[str, str]
    descriptors: dict[int, int]

    @classmethod
    def received(cls, packet: bytes, descriptors: list[int]) -> Wanted:
        folder, num_numbers, num_words, *parts = packet.decode("utf-8", "surrogateescape").split("\0")
        words_from, settings_from = int(num_numbers), int(num_numbers) + int(num_words)
        pairs = (setting.partition("=") for setting in parts[settings_from:])
        return cls(
            folder,
            parts[words_from:settings_from],
            {name: value for name, _, value in pairs},
            {int(number): given for number, given in zip(parts[:words_from], descriptors, strict=True)},
        )


def main(control: int, door: int, folder: str) -> None:
    """Import, then fork as is asked for until the tests are gone."""
    environment = dict(os.environ)  # some imports add to it
    gc.disable()
    for module in MODULES:
        import_module(module)
    for library in weakref.finalize._registry:  # type: ignore[attr-defined]
        library.atexit = False  # each child would undo torch's registrations at its end, page by page
    gc.collect()
    gc.freeze()
    gc.enable()
    sys.executable = f"{folder}/python"
    wanted = _serve(
        socket.socket(fileno=control),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=door),
        environment,
    )
    if wanted is None:
        shutil.rmtree(folder, ignore_errors=True)  # tests that were killed could not do that
    else:
        _be(wanted)


def _serve(control: socket.socket, door: socket.socket, environment: Mapping[str, str]) -> Wanted | None:
    """Fork at each request. Return in the child, with the request; and None when there is nobody to ask."""
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    lines: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        for asked in (control, woken, door):
            selector.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                line = key.fileobj
                assert isinstance(line, socket.socket)
                if line is woken:
                    with suppress(BlockingIOError):
                        woken.recv(4096)
                elif line is control:
                    for pid in filter(None, lines.values()):
                        with suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    return None
                elif line is door:
                    new, _ = door.accept()
                    lines[new] = 0
                    selector.register(new, selectors.EVENT_READ)
                elif line in lines:
                    descriptors: list[int] = []
                    try:
                        packet, descriptors, _, _ = socket.recv_fds(line, MAX_PACKET_BYTES, MAX_DESCRIPTORS)
                        wanted = Wanted.received(packet, descriptors) if packet else None
                        if wanted is None or (
                            wanted.words[0] == sys.executable and not fits(wanted.environment, environment)
                        ):
                            _drop(line, lines, selector)
                        else:
                            pid = os.fork()
                            if pid == 0:
                                signal.set_wakeup_fd(-1)
                                for closable in (control, door, woken, waker, *lines):
                                    closable.close()
                                return wanted
                            lines[line] = pid
                            line.sendall(f"{pid}\n".encode())
                    except (
                        OSError,
                        ValueError,
                    ):  # whoever asked is gone, or asked for nothing that is a process
                        _drop(line, lines, selector)
                    for descriptor in descriptors:
                        os.close(descriptor)
            _reap(lines, selector)


def _drop(line: socket.socket, lines: dict[socket.socket, int], selector: selectors.BaseSelector) -> None:
    """Close a line; nobody waits for its process any longer, which is killed."""
    selector.unregister(line)
    line.close()
    if pid := lines.pop(line):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(lines: dict[socket.socket, int], selector: selectors.BaseSelector) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            line = next((line for line, own in lines.items() if own == pid), None)
            if line is not None:
                with suppress(OSError):
                    line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                lines[line] = 0
                _drop(line, lines, selector)


def _be(wanted: Wanted) -> None:
    """Do in a forked child what the interpreter does in a new process: run the command, and end."""
    os.setsid()
    above = max(*wanted.descriptors, *wanted.descriptors.values()) + 1
    given = {number: fcntl(own, F_DUPFD, above) for number, own in wanted.descriptors.items()}
    for own in wanted.descriptors.values():
        os.close(own)
    for number, own in given.items():
        os.dup2(own, number)
        os.close(own)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(wanted.environment)
    time.tzset()
    os.chdir(wanted.folder)
    words = [wanted.words[0], *wanted.words[1:]]
    flags = []
    while words[1:2] in (["-u"], ["-P"]):
        flags.append(words.pop(1))
    if os.environ.get("PYTHONUNBUFFERED") or "-u" in flags:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    for place in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if place and place not in sys.path:
            sys.path.insert(1, place)
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    status = _status_of(words, safe_path="-P" in flags)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


def _status_of(words: list[str], *, safe_path: bool) -> int:
    """Run a command in this process; return its exit status."""
    try:
        if words[1:2] == ["-m"]:
            sys.argv = words[2:]
            sys.path[0] = os.getcwd()
        elif words[1:2] == ["-c"]:
            sys.argv = words[1:2] + words[3:]
            sys.path[0] = ""
        else:
            sys.argv = words[1:] if Path(words[0]).name == "python" else words
            sys.path[0] = str(Path(sys.argv[0]).parent)
        if safe_path:
            del sys.path[0]
        if words[1:2] == ["-m"]:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        elif words[1:2] == ["-c"]:
            exec(compile(words[2], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
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
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
