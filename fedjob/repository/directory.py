"""A repository in a folder, for one machine or a disk that the machines of a site share."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from fedjob.common.errors import ObjectCorrupt, ObjectMissing, RepositoryError
from fedjob.common.files import (
    BLOCK_BYTES,
    Blocks,
    lock,
    make_folder,
    no_space_is_an_error,
    replace_durably,
    touch_private,
    write_at,
)
from fedjob.repository.base import Repository, check_job
from fedjob.repository.parts import PART_BYTES


class DirectoryRepository(Repository):
    """A repository whose objects are files, named by their hash.

    An empty file `held/<job>/<hash>` holds an object for a job. Rights are those of
    the folder: whoever may read it may read every object.
    """

    def __init__(self, folder: Path, *, part_bytes: int = PART_BYTES) -> None:
        super().__init__(part_bytes=part_bytes)
        self._objects = folder / "objects"
        self._held = folder / "held"
        self._lock_path = folder / "lock"
        with no_space_is_an_error(folder):
            make_folder(self._objects)
            make_folder(self._held)

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        path = self._path(sha256)
        temporary = self._objects / f".{sha256[:16]}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            with no_space_is_an_error(path):
                self._write(temporary, blocks, sha256)
                with lock(self._lock_path):
                    make_folder(path.parent)
                    replace_durably(temporary, path)
                    self._hold(sha256, job)
        finally:
            temporary.unlink(missing_ok=True)

    def hold_object(self, sha256: str, *, job: str, readers: tuple[str, ...]) -> bool:
        with lock(self._lock_path):
            if not self._path(sha256).exists():
                return False
            self._hold(sha256, job)
            return True

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        try:
            descriptor = os.open(self._path(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ObjectMissing(f"object {sha256}: not there") from None
        except OSError as error:
            raise RepositoryError(f"can't read {self._path(sha256)}: {error.strerror}") from error
        try:
            while block := os.pread(descriptor, BLOCK_BYTES, offset):
                yield block
                offset += len(block)
        finally:
            os.close(descriptor)

    def has_object(self, sha256: str) -> bool:
        return self._path(sha256).exists()

    def delete_object(self, sha256: str, *, job: str) -> None:
        with lock(self._lock_path):
            self._release(self._held / check_job(job) / sha256)

    def end_job(self, job: str) -> None:
        folder = self._held / check_job(job)
        with lock(self._lock_path):
            for held in list(folder.glob("*")):
                self._release(held)
            if folder.exists():
                folder.rmdir()

    def _release(self, held: Path) -> None:
        # The object is removed first: a kill in between may leave a holder without an object, which is
        # harmless, but never an object without a holder, which nobody would remove.
        if not any(other.parent != held.parent for other in self._held.glob(f"*/{held.name}")):
            self._path(held.name).unlink(missing_ok=True)
        held.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256

    def _hold(self, sha256: str, job: str) -> None:
        folder = self._held / check_job(job)
        make_folder(folder)
        touch_private(folder / sha256)

    def _write(self, path: Path, blocks: Blocks, sha256: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            hasher, at = hashlib.sha256(), 0
            for block in blocks:
                hasher.update(block)
                write_at(descriptor, block, at)
                at += len(block)
            if hasher.hexdigest() != sha256:
                raise ObjectCorrupt(f"object {sha256}: the source changed while it was read")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
