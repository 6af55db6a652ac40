"""A file of a job's result, with its hash, which is checked whenever the file is taken."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.checks import checked_methods
from fedjob.common.errors import ObjectCorrupt
from fedjob.common.files import by_users_umask
from fedjob.researcher.results.file_formats import check_ending
from fedjob.researcher.results.table import free_path

_BLOCK_BYTES = 1 << 20


@checked_methods
@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file in the folder of a job's result.

    Args:
        path: where it is kept.
        sha256: hash of its bytes when the job ended, in hex.
        job: id of the job that made it.
        past: where it is kept once the job went on after this result.
    """

    name: str
    path: Path
    size_bytes: int
    sha256: str
    job: str
    past: Path | None = None

    @property
    def _kept(self) -> Path:
        return self.past if self.past is not None and self.past.exists() else self.path

    @by_users_umask()
    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Copy the file, checked by its hash, and return the copy's path.

        Args:
            path: of the copy; in a folder it keeps its name. It has the file's own ending, or none.
            force: replace what is there.

        Raises:
            SpecError: there is something already, or the name says that it is of another format.
            ObjectCorrupt: the bytes are not those that the job ended in; nothing is written.
        """
        given = Path(path).expanduser()
        if not given.is_dir():
            check_ending(given, self.name)
        target = free_path(given / self.name if given.is_dir() else given, force=force)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        total = hashlib.sha256()
        try:
            with self._kept.open("rb") as source, temporary.open("wb") as copy:
                while block := source.read(_BLOCK_BYTES):
                    total.update(block)
                    copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
            self._compare(total.hexdigest())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def check(self) -> Path:
        """Return the path of the kept file, its bytes checked.

        Raises:
            ObjectCorrupt: they are not those that the job ended in.
        """
        kept = self._kept
        with kept.open("rb") as file:
            self._compare(hashlib.file_digest(file, "sha256").hexdigest())
        return kept

    def _compare(self, found: str) -> None:
        if found != self.sha256:
            raise ObjectCorrupt(
                f"{self._kept} was changed after {self.job} ended: expected sha256 {self.sha256[:12]}, found "
                f"{found[:12]}; restart the job from its last breakpoint to make it anew"
            )

    def __str__(self) -> str:
        return f"{self.job}/{self.name}"
