"""The memory that this process holds, whatever its allocator keeps of what was freed."""

from __future__ import annotations

import ctypes
import gc

import psutil


def held_bytes() -> int:
    """Return the memory that is in use in this process, in bytes.

    Threads that compute at once leave more free pieces behind on a busy machine than on an idle one, and those count
    as the process's until they are given back: tens of MB, and others in each run.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)
