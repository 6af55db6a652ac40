"""Content of a file or of memory that can be read repeatedly, one block at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 18
"""Bytes read, hashed, sent or written at once. A larger block is not faster, and one
block must be sent within a deadline over a slow line too."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A range of a file or of bytes; iterating yields it, `len` is its size.

    A yielded view is valid until the next one is requested.
    """

    source: Path | bytes
    start: int
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes

    def __iter__(self) -> Iterator[memoryview]:
        if isinstance(self.source, bytes):
            view = memoryview(self.source)[self.start : self.start + self.size_bytes]
            for at in range(0, len(view), BLOCK_BYTES):
                yield view[at : at + BLOCK_BYTES]
            return
        descriptor = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield from read_blocks(descriptor, self.start, self.size_bytes)
        finally:
            os.close(descriptor)

    def sha256(self) -> str:
        """Return the hash of the whole range in hex."""
        hasher = hashlib.sha256()
        for block in self:
            hasher.update(block)
        return hasher.hexdigest()


def read_blocks(descriptor: int, start: int, size_bytes: int) -> Iterator[memoryview]:
    """Yield a range of an open file; ends early where the file does."""
    buffer = bytearray(min(BLOCK_BYTES, size_bytes))
    view = memoryview(buffer)
    at, end = start, start + size_bytes
    while at < end:
        count = os.preadv(descriptor, [view[: min(BLOCK_BYTES, end - at)]], at)
        if count == 0:
            return
        yield view[:count]
        at += count


def write_at(descriptor: int, block: bytes | bytearray | memoryview, at: int) -> None:
    """Write a whole block at a place in an open file."""
    view = memoryview(block)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count
