"""The taking of what a worker gave: by descriptor, no links, regular files of the names that fedjob knows, bounded.

Nothing that a worker says is believed of its files: it may change them while they are read, put links, pipes and
devices in their places, or name others. What is taken is a copy, in a folder that no worker sees; its last file is
`result.mpk`, which the daemon alone writes.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import DecodeError, NoSpace, ObjectTooLarge
from fedjob.common.files import FULL, EarlyWriteback, fsync_dir
from fedjob.data.item_choice import ITEMS_NAME
from fedjob.execution.orders import KEPT_NAME, WorkResult
from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.node.data.item_ledger import MAX_ITEMS_BYTES
from fedjob.node.execution.outputs import fits_in_answer
from fedjob.node.storage.spool import PARAMS_NAME, RESULT_NAME, STATE_NAME, SmallOutput, write_small
from fedjob.protocols.usage import INFERENCES

MAX_KEPT_FILES = 10_000
MAX_COUNT = 1 << 48
"""Of rows, items or predictions of one task: what the node adds up of many tasks stays a number that a database has."""
COPY_BYTES = 1 << 20


@contextmanager
def output_folder(given: int, name: str) -> Generator[int, None, None]:
    """Open a task's folder in a worker's output, and yield its descriptor.

    Args:
        given: descriptor of the worker's output folder.

    Raises:
        DecodeError: it is missing, or no folder.
    """
    try:
        source = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=given)
    except OSError as error:
        raise DecodeError("the worker's output folder is not there") from error
    try:
        yield source
    finally:
        os.close(source)


def take_output(result: WorkResult, source: int, folder: Path, *, limit_bytes: int) -> WorkResult:
    """Copy what a worker gave into the folder of its attempt, and name it the attempt's result.

    Args:
        source: descriptor of the task's output folder.
        folder: of the attempt.
        limit_bytes: of all files together.

    Returns:
        The result, with the names of the files that were taken.

    Raises:
        DecodeError: a file is missing, or is no regular file of its own; or a number is none that can be.
        ObjectTooLarge: they are larger than the limit.
        NoSpace: the node's disk is full.
    """
    taken = _checked(result)
    left = limit_bytes
    for path in (taken.params_path, taken.state_path):
        if path:
            left -= copy_file(source, path, folder / path, limit_bytes=left, durable=True)
    if taken.items_path:
        copy_file(source, ITEMS_NAME, folder / ITEMS_NAME, limit_bytes=MAX_ITEMS_BYTES)
    _take_kept(source, folder / KEPT_NAME, limit_bytes=left)
    return name_result(taken, folder)


def take_small(result: WorkResult, source: int, folder: Path, *, limit_bytes: int) -> SmallOutput | None:
    """Take what a worker gave where all of it fits into the answer; it lies in the folder of its attempt then, in one file.

    The daemon's next commit makes it durable; the file is against kills in the milliseconds before that.

    Args:
        source: descriptor of the task's output folder.
        folder: of the attempt.
        limit_bytes: of its parameters.

    Returns:
        What was read; None where it is larger, or leaves anything at the node.

    Raises:
        DecodeError: a file is missing, or is no regular file of its own; or a number is none that can be.
        NoSpace: the node's disk is full.
    """
    if result.state_path or result.items_path or _has(source, KEPT_NAME):
        return None
    taken = _checked(result)
    params: bytes | None = None
    if taken.params_path:
        most = min(limit_bytes, MAX_ATTACHED_BYTES)
        with _opened(source, PARAMS_NAME) as (reads, size_bytes):
            if size_bytes > most:
                return None
            params = reads.read(most + 1)
        if len(params) > most:
            return None
    if not fits_in_answer(taken, None if params is None else len(params)):
        return None
    small = SmallOutput(taken, params)
    with _full_disk_is_named():
        write_small(small, folder)
    return small


def _has(source: int, name: str) -> bool:
    """Tell whether anything of that name is in a folder."""
    try:
        os.stat(name, dir_fd=source, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _checked(result: WorkResult) -> WorkResult:
    """Return a result with no other file names than fedjob's, and without seconds that can't be.

    Raises:
        DecodeError: a count is below 0 or beyond any dataset.
    """
    _check_numbers(result)
    return replace(
        result,
        timing={name: took for name, took in result.timing.items() if math.isfinite(took) and took >= 0},
        params_path=PARAMS_NAME if result.params_path else "",
        state_path=STATE_NAME if result.state_path else "",
        items_path=ITEMS_NAME if result.items_path else "",
    )


def _check_numbers(result: WorkResult) -> None:
    """Check what the node counts with, and adds to what a grant has used: it may only go up.

    Raises:
        DecodeError: a count is below 0 or beyond any dataset.
    """
    counts = {"num_examples": result.num_examples, "overrun": result.overrun, "threads": result.threads}
    for part in ("used", "items", "rows"):
        counts |= {f"{part} {name[:40]!a}": number for name, number in getattr(result, part).items()}
    for name, number in counts.items():
        if not 0 <= number <= MAX_COUNT:
            raise DecodeError(f"the worker's {name} is {number}, which is no number of anything")
    if result.overrun > result.used.get(INFERENCES, 0):
        raise DecodeError("the worker has more predictions left over than were wanted")


def name_result(result: WorkResult, folder: Path) -> WorkResult:
    """Write a result whose files are in the folder of its attempt, and return it.

    A daemon that is killed from here on finds it, and the work need not be done again. It is not fsynced: against
    power cuts there are the parameters' own fsync and the daemon's commit.

    Raises:
        NoSpace: the node's disk is full.
    """
    unfinished = folder / f".{RESULT_NAME}"
    with _full_disk_is_named():
        unfinished.write_bytes(pack(to_plain(result)))
        unfinished.rename(folder / RESULT_NAME)
    return result


def copy_file(source: int, name: str, target: Path, *, limit_bytes: int, durable: bool = False) -> int:
    """Copy a file out of a worker's folder; return how many bytes it has.

    Args:
        source: descriptor of the folder.

    Raises:
        DecodeError: it is missing, a link, or no regular file with this one name.
        ObjectTooLarge: it has more bytes than the limit, be it by growing while it is read.
        NoSpace: the node's disk is full.
    """
    with _opened(source, name) as (reads, found_bytes):
        if found_bytes > limit_bytes:
            raise _too_large(found_bytes, limit_bytes)
        size = 0
        with _full_disk_is_named(), open(target, "wb", opener=_private, buffering=0) as writes:
            writeback = EarlyWriteback(writes.fileno())
            while chunk := reads.read(COPY_BYTES):
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(size, limit_bytes)
                view = memoryview(chunk)
                while view:
                    view = view[writes.write(view) :]
                if durable:
                    writeback.wrote(size)
            if durable:
                os.fsync(writes.fileno())
    return size


@contextmanager
def _opened(source: int, name: str) -> Iterator[tuple[io.FileIO, int]]:
    """Open a file in a worker's folder, and yield it and how many bytes it has.

    Raises:
        DecodeError: it is missing, a link, or no regular file with this one name.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(name, flags, dir_fd=source)
    except OSError as error:
        raise DecodeError(f"the worker's file {name[:80]} is not there, or is no file") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise DecodeError(f"the worker's file {name[:80]} is no regular file with one name")
    with io.FileIO(descriptor, "rb") as reads:
        yield reads, found.st_size


def _take_kept(source: int, target: Path, *, limit_bytes: int) -> None:
    """Copy the files that stay at the node for its owner, if there are any."""
    try:
        kept = os.open(KEPT_NAME, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DecodeError(f"the worker's {KEPT_NAME} is no folder") from error
    try:
        names = sorted(os.listdir(kept))
        if len(names) > MAX_KEPT_FILES:
            raise ObjectTooLarge(f"at most {MAX_KEPT_FILES} files of a task stay here, found {len(names)}")
        target.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            if name.startswith("."):
                raise DecodeError("a worker's file that stays here has a hidden name")
            limit_bytes -= copy_file(kept, name, target / name, limit_bytes=limit_bytes)
        fsync_dir(target)
    finally:
        os.close(kept)


def _too_large(size: int, limit_bytes: int) -> ObjectTooLarge:
    return ObjectTooLarge(f"the result has {size} bytes, this node allows {max(0, limit_bytes)}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextmanager
def _full_disk_is_named() -> Generator[None, None, None]:
    """Turn a full disk into the error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace("the node can't store the result: no space is left") from error
        raise
