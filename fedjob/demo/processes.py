"""The processes of the demo: `fedjob` commands as a user types them, started, watched and ended by id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
    """

    def __init__(self, logs: Path, echo: Callable[[str], None]) -> None:
        self._logs = logs
        self._echo = echo
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        make_folder(logs)

    def run(self, *words: str, log: str, show: bool = False) -> str:
        """Run a command to its end and return its output.

        Raises:
            FedjobError: it failed, or did not end in time.
        """
        if show:
            self._show(words)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "fedjob", *words],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=READY_WITHIN_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FedjobError(
                f"`fedjob {' '.join(words)}` has not ended within {READY_WITHIN_S:.0f} s"
            ) from error
        output = done.stdout.decode(errors="replace")
        with open(self._log(log), "a", encoding="utf-8", opener=private) as file:
            file.write(output)
        if done.returncode != 0:
            raise FedjobError(f"`fedjob {' '.join(words)}` failed: {output.strip().removeprefix('fedjob: ')}")
        return output

    def start(self, *words: str, log: str, show: bool = False) -> None:
        """Start a command that keeps running; it dies with this process, however this one ends.

        Call it on the main thread, because the kernel binds a child to the thread that started it.
        """
        if show:
            self._show((*words, "&"))
        tied = [sys.executable, "-I", tether.__file__, str(os.getpid()), sys.executable, "-m", "fedjob"]
        with open(self._log(log), "ab", opener=private) as file:
            process = subprocess.Popen(
                [*tied, *words],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for the demo, which then ends them in order
            )
        self._running.append((log, process))

    def wait_for(self, log: str, pattern: str) -> re.Match[str]:
        """Return the first match of a pattern in the output of a started command.

        Raises:
            FedjobError: it ended without such output, or the time is up.
        """
        process = next(process for name, process in self._running if name == log)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            ended = process.poll() is not None
            output = self._log(log).read_text(encoding="utf-8", errors="replace")
            if found := re.search(pattern, output, re.MULTILINE):
                return found
            if ended:
                raise FedjobError(f"{log} ended before it was ready: {_last_lines(output)}")
            if time.monotonic() > deadline:
                where, last = self._log(log), _last_lines(output)
                raise FedjobError(f"{log} was not ready within {READY_WITHIN_S:.0f} s; see {where}: {last}")
            time.sleep(0.02)

    def dead(self) -> list[str]:
        """Return the names of started commands that ended by themselves."""
        return [name for name, process in self._running if process.poll() is not None]

    def end(self) -> None:
        """End everything that was started: the nodes first, the hub last. It can't be interrupted."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        last_first = [process for _, process in reversed(self._running)]
        self._running.clear()
        hub, nodes = last_first[-1:], last_first[:-1]
        for group in (nodes, hub):
            for process in group:
                if process.poll() is None:
                    process.terminate()
            deadline = time.monotonic() + END_WITHIN_S
            for process in group:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # whatever it left in its own group
                process.wait(END_WITHIN_S)

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _show(self, words: tuple[str, ...]) -> None:
        self._echo(f"fedjob {' '.join(words)}")


def _environment() -> dict[str, str]:
    """Return this process's environment without the user's own fedjob settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDJOB_")} | {
        "PYTHONUNBUFFERED": "1"
    }


def _last_lines(output: str) -> str:
    return " / ".join(output.strip().splitlines()[-3:]) or "it printed nothing"
