"""The machine and the commit that figures belong to."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures depend on."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    python: str
    commit: str
    date: str


def this_machine(date: str) -> Machine:
    """Return this machine, and the commit of this checkout."""
    return Machine(
        processor=processor(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        commit=commit(),
        date=date,
    )


def processor(cpuinfo: str) -> str:
    """Return the model's name that /proc/cpuinfo has."""
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return names[0].strip() if names else platform.machine()


def commit() -> str:
    """Return the commit of this checkout, with `and changes` where files differ from it; `unknown` outside of git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return head + (" and changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
