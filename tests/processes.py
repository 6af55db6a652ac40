"""Real processes for tests: started with default signals and a deadline for a ready line, ended by their own id."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import psutil

from tests import preloaded
from tests.preloaded import Forked

PYTHON = sys.executable
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def give_children_default_signals() -> None:
    """Let the processes that this one starts begin with default signals, whatever it was started with itself.

    A shell starts a background command with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP ignored, and what is
    ignored or blocked stays so in every child. A handler, on the contrary, is not inherited.
    """
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_IGN:
            # fedjob interrupts a job's thread by SIGINT: here, too, it must raise what it raises elsewhere
            handler = signal.default_int_handler if number is signal.SIGINT else lambda *_: None
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for yet has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes beside this one that work in a folder or below it, or were told of it."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(str(folder) in word for word in (process.cwd(), *process.cmdline())):
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_processes_of(folder: Path) -> None:
    """End what still works in a folder, with -9, and wait until it is gone."""
    left = processes_of(folder)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, STOP_TIMEOUT_S)


def wait_until(condition: Callable[[], object], *, timeout_s: float, what: str) -> None:
    """Return once `condition()` is true.

    Raises:
        AssertionError: it was not within `timeout_s`; the message says `what` was awaited.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(min(max(0.02, now - began), 0.5))  # a condition that costs much is asked for less often
        began = time.monotonic()


class Running:
    """A process that was started, and the file that holds all it says."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes] | Forked, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def log(self) -> str:
        """Return what it has said so far, stdout and stderr together."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, *, timeout_s: float = READY_TIMEOUT_S) -> re.Match[str]:
        """Return the first match of the regular expression `pattern` in what it says, a line at a time.

        Raises:
            AssertionError: it ended, or the time was up, without saying so.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not self.alive
            found = re.search(pattern, self.log(), re.MULTILINE)
            if found:
                return found
            said = f"/{pattern}/:\n{self.log()}"
            assert not ended, f"{self.name} ended with {self._popen.returncode} before {said}"
            assert time.monotonic() < deadline, f"{self.name} did not say in {timeout_s:g} s {said}"
            time.sleep(0.02)

    def wait(self, *, timeout_s: float) -> int:
        """Return its exit status once it has ended by itself."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s:\n{self.log()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it with -9, as a power cut would, and wait until it is gone. Its children get no signal."""
        self._popen.kill()
        self._popen.wait(STOP_TIMEOUT_S)

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End it in the polite way; return its exit status."""
        if self.alive:
            self._popen.terminate()
        return self.wait(timeout_s=timeout_s)

    def clean_up(self) -> None:
        """End it, and whatever it left behind in its process group."""
        if self.alive:
            self._popen.terminate()
            try:
                self._popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)  # a group of its own: see start_new_session


class Processes:
    """Starts console commands of this virtual environment; ends them all at the end.

    Args:
        folder: where the logs go, one file per process.
        env: added to the environment of each.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._env = dict(env or {})
        self.started: list[Running] = []

    def start(
        self,
        *command: str | Path,
        ready: str | None = None,
        name: str | None = None,
        timeout_s: float = READY_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        fork: bool = False,
    ) -> Running:
        """Start a command and return once it has said its `ready` pattern.

        Args:
            command: `fedjob` and `python` mean those of this virtual environment.
            ready: a regular expression, see `Running.wait_for`; None returns at once.
            name: of the log file; by default made from the command.
            fork: fork it from a process with everything imported, see `tests.preloaded`.
        """
        words = _words(command)
        name = name or "-".join([Path(words[0]).name, *(w for w in words[1:3] if w.isalpha())])
        log_path = self._folder / f"{len(self.started):02d}-{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = self._environment(env)
        popen: subprocess.Popen[bytes] | Forked
        with log_path.open("wb") as log:
            if fork:
                popen = preloaded.server().start(words, stdout=log, stderr=log, env=environment, cwd=cwd)
            else:
                popen = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=cwd,
                    start_new_session=True,
                )
        running = Running(name, popen, log_path)
        self.started.append(running)
        if ready is not None:
            running.wait_for(ready, timeout_s=timeout_s)
        return running

    def run(
        self,
        *command: str | Path,
        timeout_s: float = READY_TIMEOUT_S,
        expect: int | None = 0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it said.

        Args:
            expect: the exit status it must have; None for any.
        """
        __tracebackhide__ = True
        words, environment = _words(command), self._environment(env)
        if command[0] == "fedjob" and preloaded.fits(environment):
            done = preloaded.run(words, env=environment, cwd=cwd, timeout_s=timeout_s)
        else:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment,
                cwd=cwd,
                timeout=timeout_s,
                check=False,
            )
        assert expect is None or done.returncode == expect, (
            f"{' '.join(done.args)} ended with {done.returncode}, not {expect}:\n{done.stdout}{done.stderr}"
        )
        return done

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self._env, **(more or {})}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in reversed(self.started):
            running.clean_up()


def _words(command: tuple[str | Path, ...]) -> list[str]:
    words = [str(word) for word in command]
    here = {"fedjob": str(Path(PYTHON).with_name("fedjob")), "python": PYTHON}
    return [here.get(words[0], words[0]), *words[1:]]
