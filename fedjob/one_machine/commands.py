"""The processes of a federation on one machine: `fedjob` commands as a user types them, started, watched, ended by id."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from fedjob.common.errors import FedjobError
from fedjob.common.files import make_folder, private
from fedjob.hub.broker import tether

READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0


class Commands:
    """A runner of `fedjob ...` commands that ends the processes it started.

    Args:
        logs: folder for the output of the commands, a file each.
        echo: prints a command line before it runs.
        within_s: seconds in which a command has to end, and a started one to be ready.
    """

    def __init__(
        self, logs: Path, echo: Callable[[str], None] | None = None, *, within_s: float = READY_WITHIN_S
    ) -> None:
        self._logs = logs
        self._echo = echo
        self._within_s = within_s
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._lock = threading.Lock()
        self._ended = False
        make_folder(logs)

    def run(self, *words: str, log: str, show: bool = False) -> str:
        """Run a command to its end and return its output.

        Raises:
            FedjobError: it failed, or did not end in time.
        """
        self._check_open()
        if show:
            self._show(words)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "fedjob", *words],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._within_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FedjobError(
                f"`fedjob {' '.join(words)}` has not ended within {self._within_s:.0f} s"
            ) from error
        output = done.stdout.decode(errors="replace")
        with open(self._log(log), "a", encoding="utf-8", opener=private) as file:
            file.write(output)
        if done.returncode != 0:
            raise FedjobError(f"`fedjob {' '.join(words)}` failed: {output.strip().removeprefix('fedjob: ')}")
        return output

    def start(self, *words: str, log: str, show: bool = False) -> None:
        """Start a command that keeps running; it dies with this process, however this one ends."""
        if show:
            self._show((*words, "&"))
        tied = [sys.executable, "-I", tether.__file__, str(os.getpid()), sys.executable, "-m", "fedjob"]
        with self._lock, open(self._log(log), "ab", opener=private) as file:
            self._check_open()
            process = _on_lasting_thread(
                lambda: subprocess.Popen(
                    [*tied, *words],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C is for this process, which then ends them in order
                )
            )
            self._running.append((log, process))

    def wait_for(self, log: str, pattern: str) -> re.Match[str]:
        """Return the first match of a pattern in the output of a started command.

        Raises:
            FedjobError: it ended without such output, or the time is up.
        """
        process = next((process for name, process in self._running if name == log), None)
        if process is None:
            raise FedjobError(f"{log} was ended before it was ready")
        deadline = time.monotonic() + self._within_s
        while True:
            ended = process.poll() is not None
            output = self._log(log).read_text(encoding="utf-8", errors="replace")
            if found := re.search(pattern, output, re.MULTILINE):
                return found
            if ended:
                raise FedjobError(f"{log} ended before it was ready: {_last_lines(output)}")
            if time.monotonic() > deadline:
                where, last = self._log(log), _last_lines(output)
                raise FedjobError(f"{log} was not ready within {self._within_s:.0f} s; see {where}: {last}")
            time.sleep(0.02)

    def dead(self) -> list[str]:
        """Return the names of started commands that ended by themselves."""
        return [name for name, process in self._running if process.poll() is not None]

    def end(self) -> None:
        """End everything that was started: the nodes first, the hub last. It can't be interrupted."""
        with _uninterrupted(), self._lock:
            self._ended = True
            last_first = [process for _, process in reversed(self._running)]
            self._running.clear()
            for group in (last_first[:-1], last_first[-1:]):
                _end(group)

    def end_one(self, log: str) -> None:
        """End one command that was started; one that has ended is no error."""
        with _uninterrupted():
            ended = [process for name, process in self._running if name == log]
            self._running = [(name, process) for name, process in self._running if name != log]
            _end(ended)

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _check_open(self) -> None:
        if self._ended:
            raise FedjobError("these processes were ended, and no other is started beside them")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _show(self, words: tuple[str, ...]) -> None:
        if self._echo is not None:
            self._echo(f"fedjob {' '.join(words)}")


def _end(group: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and kill those that don't in time, with whatever they left in their groups."""
    for process in group:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + END_WITHIN_S
    for process in group:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_WITHIN_S)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Leave signals that would interrupt this process unheeded, where its main thread is here."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


class _LastingThread:
    """A thread that lasts as long as this process: the kernel ends a tied child with the thread that started it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[Callable[[], None]] | None = None
        self._pid = 0

    def do(self, order: Callable[[], None]) -> None:
        """Have an order carried out; the thread is started with the first one of each process."""
        with self._lock:
            if self._orders is None or self._pid != os.getpid():
                self._orders, self._pid = queue.SimpleQueue(), os.getpid()
                threading.Thread(target=self._run, args=(self._orders,), name="starts", daemon=True).start()
            self._orders.put(order)

    @staticmethod
    def _run(orders: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            orders.get()()


_lasting_thread = _LastingThread()


def _on_lasting_thread(
    start: Callable[[], subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    """Return what a function returns, or raise what it raises, on a thread that ends with this process only."""
    if threading.current_thread() is threading.main_thread():
        return start()
    started: Future[subprocess.Popen[bytes]] = Future()

    def order() -> None:
        try:
            started.set_result(start())
        except Exception as error:
            started.set_exception(error)

    _lasting_thread.do(order)
    return started.result()


def _environment() -> dict[str, str]:
    """Return this process's environment without the user's own fedjob settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDJOB_")} | {
        "PYTHONUNBUFFERED": "1"
    }


def _last_lines(output: str) -> str:
    return " / ".join(output.strip().splitlines()[-3:]) or "it printed nothing"
