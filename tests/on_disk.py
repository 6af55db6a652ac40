"""Whether a file's bytes have reached the disk, as the file system itself says: what a power cut would take."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from tests.parts import forbidden

_FIEMAP = 0xC020660B
"""Linux's FS_IOC_FIEMAP: the places of a file's bytes on its disk."""

_WAITS = 4
"""FIEMAP_EXTENT_DELALLOC: bytes that lie in memory alone, and have no place on the disk yet."""

_HEAD, _EXTENT, _MOST = 32, 56, 256


def in_memory_alone(path: Path) -> bool:
    """True if a new file has bytes that no disk has yet."""
    asked = bytearray(struct.pack("=QQLLLL", 0, 2**64 - 1, 0, 0, _MOST, 0) + bytes(_EXTENT * _MOST))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _FIEMAP, asked)
    finally:
        os.close(descriptor)
    (count,) = struct.unpack_from("=L", asked, 20)
    flags = [struct.unpack_from("=L", asked, _HEAD + _EXTENT * k + 40)[0] for k in range(count)]
    return any(flag & _WAITS for flag in flags)


def need_a_disk_that_waits(folder: Path) -> None:
    """Skip the test where the file system does not say what waits, or has nothing wait."""
    probe = folder / "probe"
    probe.write_bytes(os.urandom(1 << 20))
    try:
        waits = in_memory_alone(probe)
    except OSError:
        waits = False
    probe.unlink()
    if not waits:
        forbidden("look at which bytes wait for the disk (it does on ext4, xfs and btrfs)")
