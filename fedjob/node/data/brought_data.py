"""The data that researchers bring: unpacked once for a job, read-only, removed at its end."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fedjob.common.errors import ObjectTooLarge
from fedjob.common.types import Ref
from fedjob.data.archive import remove_data, unpacked_once
from fedjob.data.readers import fitting_reader
from fedjob.repository.base import Repository


class Brought:
    """The folder of brought data, used by the daemon's threads.

    Args:
        folder: `<home>/brought`, with a folder for each job.
    """

    def __init__(self, folder: Path, repository: Repository) -> None:
        self._folder = folder
        self._repository = repository
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}  # by job: one that is fetching keeps no other waiting

    def open(self, job: str, ref: Ref, *, limit_bytes: int) -> dict[str, Any]:
        """Return what a worker opens a job's brought data by.

        Raises:
            ObjectTooLarge: more than the node allows.
            DecodeError: no archive that can be trusted.
            RepositoryError: see `Repository.get`.
        """
        if ref.size_bytes > limit_bytes:
            raise ObjectTooLarge(
                f"the data that were brought have {ref.size_bytes} bytes; this node allows {limit_bytes}"
            )
        home = self._folder / job
        with self._lock_of(job):
            for begun in home.glob(f".{ref.sha256}.*"):
                if begun.is_dir():  # by a daemon that was killed meanwhile
                    remove_data(begun)
            path = unpacked_once(
                home / ref.sha256, partial(self._repository.get, ref), limit_bytes=limit_bytes
            )
        return {
            "name": path.name,
            "path": str(path),
            "reader": fitting_reader(path),
            "tags": [],
            "options": {},
        }

    def has(self, job: str, ref: Ref) -> bool:
        """Tell whether what was brought for a job is here."""
        return (self._folder / job / ref.sha256).exists()

    def end_job(self, job: str) -> None:
        """Remove what was brought for a job."""
        with self._lock_of(job):
            self._drop(self._folder / job)
        with self._guard:
            self._locks.pop(job, None)

    def recover(self, jobs: set[str]) -> None:
        """Remove what was brought for jobs that the node has no tasks of any more."""
        if self._folder.exists():
            for home in self._folder.iterdir():
                if home.is_file():
                    if home.match("mock-*.zip"):  # that was being published
                        home.unlink()
                elif home.name not in jobs:
                    self.end_job(home.name)

    def _lock_of(self, job: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(job, threading.Lock())

    def _drop(self, home: Path) -> None:
        if home.exists():
            for inside in home.iterdir():
                if inside.is_dir():
                    remove_data(inside)
                elif inside.match("*.zip") or inside.match("*.part"):
                    inside.unlink()
            with suppress(OSError):  # something else lies in it
                home.rmdir()
