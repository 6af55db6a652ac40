"""The check of this machine: Python and its packages, torch, disk and memory."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fedjob.common.errors import FedjobError
from fedjob.doctor.findings import Finding
from fedjob.identity.private_home import close_home

LOW_DISK_BYTES = 1 << 30
"""Free space on the disk of a home below which there is a warning."""

LOW_MEMORY_BYTES = 1 << 30
"""Memory that torch and a small model need."""

TORCH_WITHIN_S = 120.0
_PACKAGES = {
    "hub": ("fedjob", "msgpack", "cryptography", "starlette", "uvicorn"),
    "node": ("fedjob", "msgpack", "cryptography", "paho-mqtt"),
    "training": ("fedjob", "torch", "numpy", "safetensors"),
    "researcher": ("fedjob", "torch", "numpy", "msgpack", "paho-mqtt", "safetensors", "cryptography"),
}
"""The packages that matter, by the extra of fedjob that brings them."""
_LOOK = "import torch; print(torch.__version__, torch.cuda.device_count(), float((torch.ones(8, 8) @ torch.ones(8, 8)).sum()))"


def versions(*extras: str) -> Finding:
    """Check Python, and name the packages that matter with their versions.

    Args:
        extras: of fedjob that are needed here, such as `hub`.
    """
    found = []
    missing = []
    for name in dict.fromkeys(name for extra in extras for name in _PACKAGES[extra]):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    here = f"Python {sys.version.split()[0]}, {', '.join(found)}"
    if missing:
        return Finding(
            "versions",
            False,
            f"{here}; not installed: {', '.join(missing)}",
            f"pip install 'fedjob[{','.join(extras)}]'",
            "you",
        )
    return Finding("versions", True, here)


def torch() -> Finding:
    """Check that torch can be imported and computes, in a process of its own."""
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", _LOOK],
            capture_output=True,
            text=True,
            timeout=TORCH_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            "torch", False, f"it could not be tried: {error}"[:300], "look at this machine's load", "you"
        )
    words = ended.stdout.split()
    if ended.returncode or len(words) != 3:
        last = (ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"])[-1]
        return Finding(
            "torch", False, last[:300], "install it as docs/node.md shows, or ask for an older build", "you"
        )
    return Finding("torch", True, f"{words[0]} computes; {words[1]} GPUs seen")


def home(folder: Path, check: Callable[[Path], None] | None = None) -> Finding:
    """Check that a home can be written and that its disk has room.

    Args:
        check: raises where this folder can't be the home.
    """
    advice = "free some space, or give another folder: --home, FEDJOB_HOME"
    try:
        if check is not None:
            check(folder)
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not there.is_dir():
            return Finding("home", False, f"{there} is no folder", advice, "you")
        if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            return Finding(
                "home", False, f"this user may not write in {there}", f"chown it, or {advice}", "you"
            )
        free_bytes = shutil.disk_usage(there).free
    except (FedjobError, OSError) as error:
        return Finding("home", False, str(error), advice, "you")
    found = f"{folder}, {free_bytes / 1e9:.1f} GB free"
    is_enough = free_bytes >= LOW_DISK_BYTES
    return Finding(
        "home", is_enough, found, "" if is_enough else "free some space", "" if is_enough else "you"
    )


def private(folder: Path) -> Finding:
    """Check that no other user can look into a home; what can be mended is mended."""
    opened = close_home(folder, whole=True)
    found = str(opened) or "nobody else can look into this home"
    if opened.left:
        return Finding("private", False, found, "run `chmod -R go-rwx` on the home as its owner", "you")
    return Finding("private", True, found)


def memory() -> Finding:
    """Check that memory for torch and a small model is available."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return Finding("memory", True, "this system does not say how much is available")
    is_enough = available >= LOW_MEMORY_BYTES
    advice = "" if is_enough else "end other programs, or give this machine more memory"
    return Finding(
        "memory", is_enough, f"{available / 1e9:.1f} GB available", advice, "" if is_enough else "you"
    )
