"""The C library's allocator: it keeps the memory of one batch for the next, or gives back what is freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

KEPT_BYTES = 128 << 20
"""Freed memory that a process keeps at most at the end of its heap."""

MAPPED_BYTES = 32 << 20
"""Blocks of so many bytes are mapped by themselves, and given back as soon as they are freed."""

GROW_BYTES = 8 << 20
"""Bytes by which the heap grows beyond what is needed."""

# of malloc.h, in glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Have freed memory kept for the next batch; nothing where the C library is none of GNU's.

    By itself glibc gives the end of its heap back to the system when a batch is done, and is given it again, page by page
    and zeroed, for the next one: thousands of page faults for each of a small model's passes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TOP_PAD, GROW_BYTES)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is GNU's: it keeps what was used once for large arrays."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
