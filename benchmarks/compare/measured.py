"""A run of one framework as a process of its own, watched from outside in the same way for all."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.compare.work import Run

LOOK_S = 0.25
MEMORY_EVERY = 4
STOP_S = 2.0
SWEEP_S = 8.0
PR_SET_CHILD_SUBREAPER = 36
NOT_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Used:
    """The processor seconds of a process when it was last looked at.

    Attributes:
        parent: The process that started it.
        own_s: Its own.
        waited_s: Of processes below it that have ended, where it has waited for them.
    """

    parent: int
    own_s: float
    waited_s: float


def total_s(used: Mapping[int, Used], living: Collection[int]) -> float:
    """Return the processor seconds of processes, those that have ended among them, each once.

    What a process has used counts as its parent's once that has waited for it, and as nobody's where its parent lets the
    system forget it, as workers of a simulation are: so the larger of both counts, of the children that have ended.
    """
    below: dict[int, list[int]] = {}
    for pid, each in used.items():
        below.setdefault(each.parent, []).append(pid)

    def of(pid: int) -> tuple[float, float]:
        """Return the seconds of a process with those below it that have ended, and of those below it that run."""
        ended_s = running_s = 0.0
        for child in below.get(pid, ()):
            child_s, below_s = of(child)
            running_s += below_s + (child_s if child in living else 0.0)
            ended_s += 0.0 if child in living else child_s
        return used[pid].own_s + max(used[pid].waited_s, ended_s), running_s

    return sum(sum(of(pid)) for pid, each in used.items() if each.parent not in used)


class Watched:
    """A process and all below it: processor seconds over time, and the most memory at a time."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._known: dict[int, psutil.Process] = {}
        self._used: dict[int, Used] = {}
        self.history: list[tuple[float, float]] = []
        self.most_mb = 0.0
        self._looks = 0

    def look(self) -> None:
        """Note what all processes have used until now."""
        with suppress(psutil.Error):
            for each in (self._root, *self._root.children(recursive=True)):
                self._known.setdefault(each.pid, each)
        for pid, each in self._known.items():
            with suppress(psutil.Error):
                # noted once: when that has ended, another is its parent
                parent = self._used[pid].parent if pid in self._used else each.ppid()
                times = each.cpu_times()
                waited_s = times.children_user + times.children_system
                self._used[pid] = Used(parent, times.user + times.system, waited_s)
        living = {pid for pid, each in self._known.items() if each.is_running()}
        self.history.append((time.time(), total_s(self._used, living)))
        if self._looks % MEMORY_EVERY == 0:
            self.most_mb = max(self.most_mb, sum(memory_mb(pid) for pid in living))
        self._looks += 1

    def cpu_between(self, begin: float, end: float) -> float:
        """Return the processor seconds from one time to another, in seconds since 1970."""
        return max(0.0, at(self.history, end) - at(self.history, begin))

    def end(self) -> None:
        """End what is left, each process by its id, and what those that end leave behind or have just started."""
        until = time.monotonic() + SWEEP_S
        while left := self._left():
            late = time.monotonic() > until
            for each in left:
                with suppress(psutil.Error):
                    each.kill() if late else each.terminate()
            psutil.wait_procs(left, timeout=STOP_S)
            if late:
                return

    def _left(self) -> list[psutil.Process]:
        """Return the processes of the run that still run: those that were seen, and all below this process since then."""
        with suppress(psutil.Error):
            for each in psutil.Process().children(recursive=True):
                if each.create_time() >= self._root.create_time():
                    self._known.setdefault(each.pid, each)
        left = []
        for each in self._known.values():
            with suppress(psutil.Error):
                if each.status() != psutil.STATUS_ZOMBIE:
                    left.append(each)
                elif each.pid != self._root.pid:
                    each.wait(0)
        return left


def at(history: Sequence[tuple[float, float]], when: float) -> float:
    """Return the value at a time between two looks, on the line between them."""
    if not history:
        return 0.0
    for (before, low), (after, high) in pairwise(history):
        if before <= when <= after:
            return low + (high - low) * (when - before) / (after - before or 1.0)
    return history[0][1] if when < history[0][0] else history[-1][1]


def memory_mb(pid: int) -> float:
    """Return a process's memory in MB; of pages that several processes map each has its part."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (OSError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def measure(python: Path | str, script: Path, orders: dict[str, Any], *, deadline_s: float) -> Run:
    """Run a script with its orders, and return what was measured; a failure is a `Run` with an error."""
    environment = {key: value for key, value in os.environ.items() if key not in NOT_OURS} | SETTINGS
    with tempfile.TemporaryDirectory(prefix="cmp-") as name:
        folder = Path(name)
        began, busy = time.time(), busy_s()
        adopt(True)
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            child = subprocess.Popen(
                [str(python), str(script), json.dumps(orders)],
                stdout=out, stderr=err, cwd=folder, env=environment | {"TMPDIR": str(folder)},
            )  # fmt: skip
            watched = Watched(psutil.Process(child.pid))
            try:
                while child.poll() is None and time.time() - began < deadline_s:
                    watched.look()
                    time.sleep(LOOK_S)
                late = child.poll() is None
                others = others_share(busy_s() - busy, watched, time.time() - began)
            finally:
                watched.end()
                child.wait()
                adopt(False)
        if late:
            return Run(error=f"not done after {deadline_s:.0f} s", others=others)
        if child.returncode:
            return Run(
                error=last_words((folder / "err").read_text(errors="replace")) or f"exit {child.returncode}",
                others=others,
            )
        return found(began, (folder / "out").read_text(errors="replace"), watched, others)


def adopt(yes: bool) -> None:
    """Let this process be the parent of what its children leave behind, so that it can end that, or no longer."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def busy_s() -> float:
    """Return the seconds for which this machine's processors have computed anything, or were taken away by their host."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in user already
    return sum(seconds for name, seconds in times.items() if name not in idle)


def others_share(busy: float, watched: Watched, elapsed_s: float) -> float:
    """Return the share of the machine's processors that everything but the watched processes took.

    Args:
        busy: seconds of all processors in which something was computed.
    """
    own = watched.history[-1][1] if watched.history else 0.0
    return max(0.0, busy - own) / max(elapsed_s * (psutil.cpu_count() or 1), 1e-9)


def found(began: float, output: str, watched: Watched, others: float = 0.0) -> Run:
    """Return the run that the last line of a script's output and the watching tell."""
    try:
        printed = json.loads(output.strip().splitlines()[-1])
        ends, outcome = [float(each) for each in printed["ends"]], float(printed["outcome"])
        moved = printed.get("moved", {"down": 0.0, "up": 0.0})
        down, up = float(moved["down"]), float(moved["up"])
    except (IndexError, KeyError, TypeError, ValueError):
        return Run(error=f"no figures in its output: {output[-200:]!r}", others=others)
    if len(ends) < 2:
        return Run(error=f"it ended after {len(ends)} round(s): at least 2 are needed", others=others)
    return Run(
        seconds=tuple(after - before for before, after in pairwise(ends)),
        first_s=ends[0] - began,
        cpu_s=watched.cpu_between(ends[0], ends[-1]) / (len(ends) - 1),
        memory_mb=watched.most_mb,
        outcome=outcome,
        down_mb=down / 1e6,
        up_mb=up / 1e6,
        others=others,
    )


def last_words(text: str) -> str:
    """Return the last lines of an output, for a page: one line of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-300:]
