"""A repository in this process's memory, for local jobs, simulations and tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from fedjob.common.errors import ObjectCorrupt, ObjectMissing
from fedjob.common.files import Blocks
from fedjob.repository.base import WATCH, Repository
from fedjob.repository.parts import PART_BYTES


class MemoryRepository(Repository):
    """A repository that keeps objects as bytes; whoever has this object may read every one."""

    def __init__(self, *, part_bytes: int = PART_BYTES) -> None:
        super().__init__(part_bytes=part_bytes)
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._holders: dict[str, set[str]] = {}
        self._watches: dict[str, bytes] = {}

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        content = b"".join(map(bytes, blocks))  # copies, because a block is valid only until the next
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ObjectCorrupt(f"object {sha256}: the source changed while it was read")
        with self._lock:
            self._objects[sha256] = content
            self._holders.setdefault(sha256, set()).add(job)

    def hold_object(self, sha256: str, *, job: str, readers: tuple[str, ...]) -> bool:
        with self._lock:
            if sha256 not in self._objects:
                return False
            self._holders[sha256].add(job)
            return True

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        with self._lock:
            content = self._objects.get(sha256)
        if content is None:
            raise ObjectMissing(f"object {sha256}: not stored here")
        yield from Blocks(content, offset, max(0, len(content) - offset))

    def has_object(self, sha256: str) -> bool:
        with self._lock:
            return sha256 in self._objects

    def delete_object(self, sha256: str, *, job: str) -> None:
        with self._lock:
            holders = self._holders.get(sha256, set())
            holders.discard(job)
            if not holders:
                self._objects.pop(sha256, None)
                self._holders.pop(sha256, None)

    def put_watch(self, job: str, frame: bytes, *, readers: tuple[str, ...]) -> None:
        with self._lock:
            self._watches[job] = frame

    def get_watch(self, job: str) -> bytes:
        with self._lock:
            if job not in self._watches:
                raise ObjectMissing(f"{job}: its owner publishes nothing about it")
            return self._watches[job]

    def end_job(self, job: str) -> None:
        with self._lock:
            self._watches.pop(job.removesuffix(WATCH) if job.endswith(WATCH) else "", None)
            for sha256, holders in list(self._holders.items()):
                holders.discard(job)
                if not holders:
                    del self._objects[sha256], self._holders[sha256]
