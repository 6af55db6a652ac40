"""A launcher for commands that die with their parent: `python -I tether.py PARENT_PID COMMAND...`.

The kernel ends the command (`PR_SET_PDEATHSIG`), so that this holds when the parent is killed
with -9 too. A process of its own asks the kernel for it, because code that runs between fork
and exec of a process with threads can hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to end this process with its parent, then replace it by the command."""
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"prctl: {os.strerror(ctypes.get_errno())}\n")
        return
    if os.getppid() == parent:  # otherwise the parent died before prctl was called
        os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
