"""The files of a node's tasks: fetched objects, workers' output, finished results, node states.

A worker writes into a folder of its own, `tasks/<key>.<run>`, and its last act is
`result.mpk`. Renaming the folder to `results/<key>` makes the result the
task's; until then a kill loses nothing but the rename, which `recover` makes up for.
A power cut before that may cost the computation, one after it costs nothing: the
parameters are fsynced by then, and what else the answer says is in the database.

A small result has no folder in `results`: all of it is in the database. Until that commit it lies in `small.mpk`, the
one file of the attempt's folder, which is not synced and says itself whether it is whole: a kill costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, FedjobError, ObjectTooLarge
from fedjob.common.files import fsync_dir, is_own_name, make_folder, private, remove_folder
from fedjob.common.types import Ref
from fedjob.execution.orders import KEPT_NAME, WorkResult
from fedjob.node.config.home import NodeHome
from fedjob.repository.base import Repository

RESULT_NAME = "result.mpk"
SMALL_NAME = "small.mpk"
PARAMS_NAME = "params.safetensors"
STATE_NAME = "state.safetensors"
VECTOR_NAME = "masked"
"""Of a masked vector in a result's folder, until it is stored; a dot and 8 hex digits follow."""

_DIGEST_BYTES = 32

_OBJECT = re.compile(r"\.?[0-9a-f]{64}(\..*)?")
"""The name of an object, or of one that is being fetched."""


@dataclass(frozen=True, slots=True)
class SmallOutput:
    """What a worker gave, all of it: no file is kept of it, and its parameters leave attached to the answer.

    Args:
        params: the bytes of its safetensors file; None where it has none.
    """

    result: WorkResult
    params: bytes | None = None


def write_small(small: SmallOutput, folder: Path) -> None:
    """Write a small output into the folder of its attempt, so that a kill does not cost the computation; not synced.

    Raises:
        OSError: it can't be written.
    """
    packed = pack({"result": to_plain(small.result), "params": small.params})
    with open(folder / SMALL_NAME, "wb", opener=private) as file:
        file.write(hashlib.sha256(packed).digest() + packed)


def read_small(folder: Path) -> SmallOutput | None:
    """Return the small output in the folder of an attempt; None where there is none, or not all of it."""
    try:
        data = (folder / SMALL_NAME).read_bytes()
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
            return None
        plain = unpack(data[_DIGEST_BYTES:])
        return SmallOutput(from_plain(WorkResult, plain["result"]), plain["params"])
    except (OSError, FedjobError, LookupError, TypeError):
        return None


class Spool:
    """The folders of a node's spool; used by the daemon's loop and by its threads."""

    def __init__(self, home: NodeHome, repository: Repository) -> None:
        self._home = home
        self._repository = repository
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._fetched: set[str] = set()
        self._left: dict[str, Path] = {}  # by key, where the last daemon left a small output

    # --- what is fetched --------------------------------------------------------------------

    def fetch(self, ref: Ref, content: bytes | None = None) -> Path:
        """Return the path of an object; tasks that want the same share one file.

        Args:
            content: its bytes, where they came attached to a task; else they are in the repository.

        Raises:
            RepositoryError: see `Repository.get`.
        """
        path = self._home.object_of(ref.sha256)
        with self._lock:
            if ref.sha256 in self._fetched:
                return path
            one_at_a_time = self._fetching.setdefault(ref.sha256, threading.Lock())
        with one_at_a_time:
            with self._lock:
                if ref.sha256 in self._fetched:
                    return path
            if content is None:
                self._repository.get(ref, path)
            else:
                fresh = path.with_name(f".{path.name}.attached")
                with open(fresh, "wb", opener=private) as file:
                    file.write(content)
                os.replace(fresh, path)
            with self._lock:
                self._fetched.add(ref.sha256)
                self._fetching.pop(ref.sha256, None)
        return path

    def here(self, wanted: Collection[str]) -> frozenset[str]:
        """Return the hashes, of some objects, of those that were fetched and are still here."""
        with self._lock:
            return frozenset(self._fetched.intersection(wanted))

    def keep_objects(self, wanted: Collection[str]) -> None:
        """Remove fetched objects that no task needs any more."""
        with self._lock:
            gone = [sha256 for sha256 in self._fetched if sha256 not in wanted]
            self._fetched.difference_update(gone)
        for sha256 in gone:
            self._home.object_of(sha256).unlink(missing_ok=True)

    # --- what workers write --------------------------------------------------------------------

    def begin(self, key: str) -> Path:
        """Return a new, empty folder for a worker's output."""
        folder = self._home.tasks / f"{key}.{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        return folder

    def finish(self, key: str, folder: Path) -> None:
        """Make a worker's complete output folder the task's result, durably."""
        final = self._home.result_of(key)
        remove_folder(final)
        os.rename(folder, final)
        fsync_dir(final)
        fsync_dir(final.parent)

    def discard(self, folder: Path) -> None:
        """Remove what a worker left unfinished."""
        remove_folder(folder)

    def discard_small(self, folder: Path) -> None:
        """Remove the folder of an attempt whose small output is in the database."""
        try:
            os.unlink(folder / SMALL_NAME)
            os.rmdir(folder)
        except OSError:  # something else is in it
            remove_folder(folder)

    def take_left(self, key: str) -> tuple[Path, SmallOutput] | None:
        """Return a task's small output that the last daemon could not commit, and its folder; None where there is none."""
        folder = self._left.pop(key, None)
        small = None if folder is None else read_small(folder)
        return None if folder is None or small is None else (folder, small)

    def has_result(self, key: str) -> bool:
        """Tell whether the task's result is there."""
        return (self._home.result_of(key) / RESULT_NAME).exists()

    def result(self, key: str) -> WorkResult:
        """Read a finished result.

        Raises:
            DecodeError: it is damaged.
        """
        try:
            data = (self._home.result_of(key) / RESULT_NAME).read_bytes()
        except OSError as error:
            raise DecodeError(f"the result of task {key} can't be read: {error}") from error
        return from_plain(WorkResult, unpack(data))

    def params_of(self, key: str, *, limit_bytes: int) -> Path:
        """Return the file of parameters in a result.

        Raises:
            ObjectTooLarge: larger than the limit.
            DecodeError: no regular file, so not what a worker writes.
        """
        path = self._home.result_of(key) / PARAMS_NAME
        try:
            found = path.lstat()
        except OSError as error:
            raise DecodeError("the worker's parameters are not there") from error
        if not stat.S_ISREG(found.st_mode):
            raise DecodeError("the worker's parameters are no regular file")
        if found.st_size > limit_bytes:
            raise ObjectTooLarge(f"the result has {found.st_size} bytes, this node allows {limit_bytes}")
        return path

    def release(self, key: str) -> None:
        """Remove a task's result."""
        remove_folder(self._home.result_of(key))

    def tidy(self, released: Iterable[str], wanted: Collection[str]) -> None:
        """Remove results, and objects that no other task needs."""
        for key in released:
            self.release(key)
        self.keep_objects(wanted)

    def has_kept(self, released: Iterable[str], wanted: Collection[str]) -> bool:
        """Tell whether there is anything for `tidy` to remove: of small work nothing is."""
        with self._lock:
            if not self._fetched <= set(wanted):
                return True
        return any(os.path.lexists(f"{self._home.results}/{key}") for key in released)

    def keep_files(self, key: str, folder: Path, *, limit_bytes: int) -> None:
        """Move the files of a result that stay here to where the owner finds them.

        Raises:
            ObjectTooLarge: they have more bytes together than the limit.
        """
        source = self._home.result_of(key) / KEPT_NAME
        if source.is_symlink() or not source.is_dir():  # none, or it was done before
            return
        size = sum(file.lstat().st_size for file in source.iterdir())
        if size > limit_bytes:
            raise ObjectTooLarge(
                f"the files that would stay have {size} bytes, this node allows {limit_bytes}"
            )
        remove_folder(folder)
        make_folder(folder.parent)
        os.rename(source, folder)
        fsync_dir(folder)
        fsync_dir(folder.parent)

    # --- node states ------------------------------------------------------------------------------

    def keep_state(self, key: str, job: str, state: str) -> None:
        """Link the state in a result to its place, durably; what is there already stays."""
        source = self._home.result_of(key) / STATE_NAME
        if not stat.S_ISREG(source.lstat().st_mode):
            raise DecodeError("the worker's state is no regular file")
        folder = self._home.states_of(job)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            fsync_dir(folder.parent)
        with suppress(FileExistsError):
            os.link(source, self._home.state_of(job, state))
        fsync_dir(folder)

    def drop_states(self, job: str, states: Iterable[str]) -> None:
        """Remove node states, and the job's folder with the last one."""
        for state in states:
            self._home.state_of(job, state).unlink(missing_ok=True)
        with suppress(OSError):  # others are left, or it was never made
            self._home.states_of(job).rmdir()

    # --- start ------------------------------------------------------------------------------------

    def recover(
        self, keys: Collection[str], done: Collection[str], states: Collection[tuple[str, str]]
    ) -> None:
        """Bring the folders into order after any end of the last daemon.

        Args:
            keys: of the tasks that are in the database and have not failed.
            done: of those, the ones that were finished.
            states: (job, id) of those that are.
        """
        for folder in _own_folders(self._home.tasks):
            key = folder.name.partition(".")[0]
            if key not in keys or key in done or self.has_result(key) or key in self._left:
                self.discard(folder)
            elif read_small(folder) is not None:
                self._left[key] = folder
            elif _is_complete(folder):
                self.finish(key, folder)
            else:
                self.discard(folder)
        for folder in _own_folders(self._home.results):
            if folder.name not in keys or (folder.name not in done and not _is_complete(folder)):
                self.discard(folder)
            for path in folder.glob(f"{VECTOR_NAME}.{'[0-9a-f]' * 8}"):
                path.unlink()
        # Fetched files are not fsynced: after a power cut they may be anything.
        for path in self._home.objects.iterdir():
            if _OBJECT.fullmatch(path.name):
                path.unlink()
        for folder in _own_folders(self._home.scratch):
            self.discard(folder)
        for folder in _own_folders(self._home.state):
            for path in folder.glob("*.safetensors"):
                if (folder.name, path.stem) not in states:
                    path.unlink()
            with suppress(OSError):
                folder.rmdir()


def _own_folders(folder: Path) -> list[Path]:
    """Return the folders within that fedjob made; whatever else lies there is left alone."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_own_name(path.name))


def _is_complete(folder: Path) -> bool:
    try:
        result = from_plain(WorkResult, unpack((folder / RESULT_NAME).read_bytes()))
    except (OSError, FedjobError):
        return False
    return not result.params_path or (folder / PARAMS_NAME).exists()
