"""The check of a party's line: a made-up object that goes over it each way, and what that took."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.types import Ref
from fedjob.repository.base import Repository

LEAST_CHECK_BYTES = 256 * 1024
MAX_CHECK_BYTES = 4 * 1024 * 1024
"""Of the object by which a line is checked."""
_SMALL_BYTES = 1024
"""Of one that takes the time of a request alone."""
_LEAST_SHARE = 0.25
"""The part of a transfer's time that its bytes take at least, whatever a request alone took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCheck:
    """The bytes that went over a line each way, and the seconds that they took beside the requests.

    Args:
        size_bytes: that went, each way.
        down_s, up_s: seconds to this party, and from it.
    """

    size_bytes: int
    down_s: float
    up_s: float


def check_line(repository: Repository, folder: Path, readers: tuple[str, ...], size_bytes: int) -> LineCheck:
    """Store an object of random bytes and fetch it back; nothing of it stays.

    Args:
        folder: for a file that is removed again.
        readers: parties that may read it meanwhile.

    Raises:
        RepositoryError: it could not be stored, or not be fetched.
    """
    with _Held(repository, folder, readers) as held:
        small, small_up_s = held.store(_SMALL_BYTES)
        small_down_s = held.fetch(small)
        whole, up_s = held.store(size_bytes)
        down_s = held.fetch(whole)
    return LineCheck(
        size_bytes=size_bytes,
        down_s=max(down_s - small_down_s, _LEAST_SHARE * down_s),
        up_s=max(up_s - small_up_s, _LEAST_SHARE * up_s),
    )


class _Held:
    """The objects of a check, held by a made-up job that ends with it."""

    def __init__(self, repository: Repository, folder: Path, readers: tuple[str, ...]) -> None:
        self._repository = repository
        self._path = folder / f"line_{secrets.token_hex(8)}"
        self._readers = readers
        self._job = f"line.{secrets.token_hex(16)}"

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._repository.forget_keys(self._job)
        self._repository.end_job(self._job)

    def store(self, size_bytes: int) -> tuple[Ref, float]:
        """Return what names a new object, and the seconds that it took to store."""
        content = os.urandom(size_bytes)
        began = time.monotonic()
        ref = self._repository.put(content, job=self._job, readers=self._readers)
        return ref, max(time.monotonic() - began, 1e-6)

    def fetch(self, ref: Ref) -> float:
        """Return the seconds that an object takes to fetch."""
        self._path.unlink(missing_ok=True)
        began = time.monotonic()
        self._repository.get(ref, self._path)
        return max(time.monotonic() - began, 1e-6)
