"""A file that is put into a repository while it is being written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import RepositoryError
from fedjob.common.files import BLOCK_BYTES, Blocks, read_blocks

STALLED_S = 600.0
"""Without a further byte, after which a file counts as given up."""


class NeverFinished(RepositoryError):
    """The error of whoever reads a file whose writer gave it up."""


class GrowingFile:
    """A file of a known size whose bytes are written once, from the first to the last, while others read it.

    Args:
        path: need not exist yet.
        size_bytes: that it will have.
        stalled_s: most seconds without a further byte.
    """

    def __init__(self, path: Path, size_bytes: int, *, stalled_s: float = STALLED_S) -> None:
        self.path, self.size_bytes = path, size_bytes
        self._stalled_s = stalled_s
        self._written = 0
        self._given_up = False
        self._news = threading.Condition()

    def grew(self, size_bytes: int) -> None:
        """Take note that the first `size_bytes` bytes are in the file, as they stay."""
        with self._news:
            self._written = size_bytes
            self._news.notify_all()

    @property
    def is_given_up(self) -> bool:
        """True if no further bytes will come, or what came is wanted no more."""
        return self._given_up

    def give_up(self) -> None:
        """Wake all that wait for bytes that will not come."""
        with self._news:
            self._given_up = True
            self._news.notify_all()

    def becomes_whole(self) -> bool:
        """Return, once that is known, whether the file has got all its bytes, and nobody has given it up."""
        try:
            self.wait_for(self.size_bytes)
        except NeverFinished:
            return False
        return True

    def wait_for(self, size_bytes: int) -> None:
        """Return once the first `size_bytes` bytes are in the file.

        Raises:
            NeverFinished: they will not come, or nothing came for too long.
        """
        with self._news:
            while self._written < size_bytes and not self._given_up:
                if not self._news.wait(self._stalled_s):
                    self._given_up = True
            if self._given_up:
                raise NeverFinished(
                    f"{self.path.name}: expected {self.size_bytes} bytes, and no more than {self._written} were written"
                )


@dataclass(frozen=True, slots=True)
class GrowingBlocks(Blocks):
    """A range of a growing file; iterating waits for its bytes.

    Args:
        file: whose path is the source.
    """

    file: GrowingFile

    def wait_for_first(self) -> None:
        """Return once there is something to read.

        Raises:
            NeverFinished: that will not come.
        """
        self.file.wait_for(self.start + min(1, self.size_bytes))

    def __iter__(self) -> Iterator[memoryview]:
        at, end = self.start, self.start + self.size_bytes
        self.wait_for_first()
        descriptor = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while at < end:
                before, size = at, min(BLOCK_BYTES, end - at)
                self.file.wait_for(at + size)
                for block in read_blocks(descriptor, at, size):
                    yield block
                    at += len(block)
                if at == before:
                    raise NeverFinished(
                        f"{self.file.path.name}: expected {end} bytes, and after {at} it ends: did somebody cut it short?"
                    )
        finally:
            os.close(descriptor)
