"""The temporary file of a download: locked, resumed, and renamed into place when it is whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from fedjob.common.errors import ObjectCorrupt
from fedjob.common.files import no_space_is_an_error, take_lock
from fedjob.common.types import Ref


class Landing:
    """An open temporary file beside `path`, one per ref.

    It continues the file of an interrupted download. A second download of the same
    ref to the same path at the same time gets a file of its own.
    """

    def __init__(self, path: Path, ref: Ref) -> None:
        self._path = path
        self._ref = ref
        self._temporary = path.with_name(f".{path.name}.{ref.sha256[:16]}.part")
        self._finished = False
        self.descriptor = -1

    def __enter__(self) -> Landing:
        with no_space_is_an_error(self._path):
            self.descriptor = self._open()
            if self.num_bytes > self._ref.size_bytes:
                os.ftruncate(self.descriptor, 0)
        return self

    @property
    def num_bytes(self) -> int:
        """The number of bytes that are in the file already."""
        return os.fstat(self.descriptor).st_size

    def from_existing(self, matches: Callable[[int], bool]) -> bool:
        """Return whether `path` exists with the right content already, so that nothing is fetched."""
        try:
            existing = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(existing).st_size != self._ref.size_bytes or not matches(existing):
                return False
        finally:
            os.close(existing)
        self._temporary.unlink(missing_ok=True)
        self._finished = True
        return True

    def finish(self) -> None:
        """Rename the file, which is whole now, into place."""
        os.replace(self._temporary, self._path)
        self._finished = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = self.num_bytes == 0
        if not self._finished and (empty or isinstance(error, (OSError, ObjectCorrupt))):
            self._temporary.unlink(
                missing_ok=True
            )  # before the lock is released, so that no other download continues it
        os.close(self.descriptor)
        if isinstance(error, OSError):
            with no_space_is_an_error(self._path):
                raise error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._temporary, flags, 0o600)
        try:
            named = take_lock(descriptor) and os.stat(self._temporary).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            named = False
        if named:
            return descriptor
        os.close(descriptor)  # another download has it locked, or has just finished
        self._temporary = self._temporary.with_suffix(f".{uuid.uuid4().hex[:12]}.part")
        return os.open(self._temporary, flags | os.O_EXCL, 0o600)
