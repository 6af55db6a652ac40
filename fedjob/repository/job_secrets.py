"""The secrets by which a party encrypts what it puts into the repository: one for each job, destroyed at its end."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import fsync_dir, make_folder, write_atomic
from fedjob.common.sealing.chunks import KEY_BYTES
from fedjob.common.types import check_job_id

FOLDER_NAME = "jobs"
"""Of the secrets, in the home's `keys`; a backup leaves it out."""

MAX_NAMES = 4096
"""Of a job, the newest are known; what is stored again under an older one is sent again."""

_FRESH = re.compile(r"\.job_[0-9a-f-]{36}\.[0-9a-f]{16}")


class JobSecrets:
    """The secrets of one home; may be used from several threads at once, and by several processes.

    A job's lies in a file of its own, so that the same content gives the same encrypted bytes after a restart and an
    upload goes on where it was. What is held under a name that is no job's id, such as a mock, is encrypted by a
    secret of this process.

    Args:
        folder: `home/keys/jobs`; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, bytes] = {}
        self._made: set[str] = set()
        self._names: dict[str, OrderedDict[str, str]] = {}

    def __repr__(self) -> str:
        return f"JobSecrets({str(self._folder)!r})"  # never what is in it

    def of(self, job: str) -> bytes:
        """Return the 32 secret bytes of a job, which are made on first use.

        Raises:
            ConfigError: its file is damaged or can't be written.
        """
        with self._lock:
            if job not in self._known:
                self._known[job] = self._load(job) if _is_job(job) else self._make(job)
            return self._known[job]

    def is_fresh(self, job: str) -> bool:
        """True if this process made the secret of a job: then it knows the names of what is stored under it."""
        self.of(job)
        with self._lock:
            return job in self._made

    def name_of(self, job: str, sha256: str) -> str:
        """Return the name under which this process has stored a content; empty where that is not known."""
        with self._lock:
            names = self._names.get(job)
            return "" if names is None else names.get(sha256, "")

    def note_name(self, job: str, sha256: str, name: str) -> None:
        """Note under which name a content is stored, encrypted by the secret of a job.

        Args:
            sha256: of the plain content.
        """
        with self._lock:
            if job not in self._known:
                return  # it has ended meanwhile
            names = self._names.setdefault(job, OrderedDict())
            names[sha256] = name
            names.move_to_end(sha256)
            if len(names) > MAX_NAMES:
                names.popitem(last=False)

    def destroy(self, job: str) -> None:
        """Remove a job's secret, durably; none is no error."""
        with self._lock:
            self._forget(job)
            if _is_job(job):
                self._remove([self._folder / job])

    def keep(self, jobs: Collection[str]) -> None:
        """Remove the secrets of all jobs but these; whatever else lies in the folder is left alone."""
        with self._lock:
            for job in self._known.keys() - set(jobs):
                self._forget(job)
            found = self._folder.iterdir() if self._folder.exists() else ()
            self._remove(
                path
                for path in list(found)
                if _FRESH.fullmatch(path.name) or (_is_job(path.name) and path.name not in jobs)
            )

    def _forget(self, job: str) -> None:
        self._known.pop(job, None)
        self._names.pop(job, None)
        self._made.discard(job)

    def _make(self, job: str) -> bytes:
        self._made.add(job)
        return secrets.token_bytes(KEY_BYTES)

    def _load(self, job: str) -> bytes:
        path = self._folder / job
        try:
            if not path.exists():
                make_folder(self._folder)
                fresh = self._folder / f".{job}.{secrets.token_hex(8)}"
                write_atomic(fresh, secrets.token_bytes(KEY_BYTES))
                with suppress(FileExistsError):  # of several processes one wins, and all use the same
                    os.link(fresh, path)
                    self._made.add(job)
                fresh.unlink()
                fsync_dir(self._folder)
            secret = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"the job's secret {path} can't be used ({error.strerror})") from error
        if len(secret) != KEY_BYTES:
            raise ConfigError(
                f"{path} should hold {KEY_BYTES} bytes, found {len(secret)}: remove it, and what the job stored is "
                "stored again"
            )
        return secret

    def _remove(self, paths: Iterable[Path]) -> None:
        removed = False
        for path in paths:
            if path.exists():
                path.unlink(missing_ok=True)
                removed = True
        if removed:
            fsync_dir(self._folder)


def _is_job(name: str) -> bool:
    try:
        check_job_id(name)
    except SpecError:
        return False
    return True
