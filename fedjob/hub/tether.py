"""Runs a command that dies with its parent: `python -I tether.py PARENT_PID COMMAND...`.

The kernel keeps the promise, so that it holds when the parent is killed with -9. A
process of its own sets it, because code between fork and exec of a process with
threads can hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, then become the command."""
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"prctl: {os.strerror(ctypes.get_errno())}\n")
        return
    if os.getppid() == parent:  # else it died before this line
        os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
