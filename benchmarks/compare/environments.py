"""An environment for each peer, outside of the checkout, so that no peer's packages meet fedjob's or another's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare.work import Peer

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S = 900


def home() -> Path:
    """Return the folder of the environments: `COMPARE_HOME`, or one under the system's temporary folder."""
    return Path(os.environ.get("COMPARE_HOME") or Path(tempfile.gettempdir()) / "fedjob-compare").resolve()


def torch_pin(lock: str) -> str:
    """Return the requirement of torch built for the CPU alone, as this checkout locks it."""
    found = re.search(r"^(torch==\S+)", lock, re.MULTILINE)
    if not found:
        raise ValueError("envs/locks/cpu.txt names no torch: run `make lock`")
    return found[1]


def python_of(peer: Peer, folder: Path) -> Path:
    """Install a peer where it is not installed yet, and return its interpreter.

    Raises:
        RuntimeError: pip failed; the message is its last lines.
    """
    torch = torch_pin((ROOT / "envs" / "locks" / "cpu.txt").read_text(encoding="utf-8"))
    wanted = [torch, *peer.packages]
    place = folder / peer.place
    python, stamp = place / "bin" / "python", place / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == "\n".join(wanted):
        return python
    # A half-made environment is made anew in the same place: venv clears it.
    _run([sys.executable, "-m", "venv", "--clear", str(place)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    stamp.write_text("\n".join(wanted), encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"`{' '.join(command)}` took longer than {INSTALL_S} s") from None
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-3:])
        hint = ""
        if "No matching distribution found for torch" in tail:
            hint = (
                " (torch for the CPU alone has to be in a folder of PIP_FIND_LINKS: see docs/operations.md)"
            )
        raise RuntimeError(f"`{' '.join(command)}` failed{hint}: {tail}")
