"""The backup of a home in one file, and its restoration into an empty folder.

The file is a tar archive, compressed, of mode 0600: it holds keys and tokens. A database in use is copied by SQLite
itself, so that the copy is of one moment.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from fedjob._version import __version__
from fedjob.common.errors import ConfigError, NoSpace
from fedjob.common.files import fsync_dir, fsync_file, make_folder, new_folder, no_space_is_an_error
from fedjob.identity.enrolment import check_role_of_home, role_of_home

MANIFEST_NAME = "fedjob-backup.json"
KIND = "fedjob backup 1"
_MAX_MANIFEST_BYTES = 1 << 16
_JOB_SECRETS = "keys/jobs"
"""Keys that are destroyed at the ends of their jobs; a backup would keep them."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What is in a backup.

    Args:
        num_files, size_bytes: of the home's files, before they were compressed.
        created: seconds since 1970.
    """

    role: str
    party: str
    created: float
    num_files: int
    size_bytes: int


def back_up(
    home: Path,
    target: Path,
    *,
    role: str,
    leave_out: Collection[str] = (),
    beside: dict[str, Path] | None = None,
) -> Backup:
    """Write a home into one file, while it is in use or not.

    Args:
        leave_out: names of files and folders, relative to the home, that can be made again.
        beside: name in the home -> folder elsewhere that belongs to it.

    Raises:
        ConfigError: it is no such home, the file is there already, or can't be written.
        NoSpace: the disk of the file is full; no partial file is left.
    """
    if role_of_home(home) != role:
        raise ConfigError(f"expected the home of a {role} in {home}, found none: give --home")
    target = target.expanduser().absolute()
    if target.exists():
        raise ConfigError(f"{target} is there already: give another name, it is not overwritten")
    half = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    files = dict(_files(home, {*leave_out, MANIFEST_NAME, _JOB_SECRETS}))
    for name, folder in (beside or {}).items():
        files |= {f"{name}/{inside}": path for inside, path in _files(folder, ())}
    party = home / "keys" / "party"
    name = party.read_text(encoding="utf-8").strip() if party.exists() else ""
    num_files, size_bytes, created = 0, 0, time.time()
    try:
        with no_space_is_an_error(target), _private(half) as raw:
            with (
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                about = {"kind": KIND, "role": role, "party": name, "created": created}
                _add_bytes(archive, MANIFEST_NAME, json.dumps({**about, "fedjob": __version__}).encode())
                # databases first: what they name lies there still when the files are copied, or is made again
                for inside in sorted(files, key=lambda each: (not each.endswith(".sqlite"), each)):
                    added = _add(archive, inside, files[inside], half.parent)
                    num_files += added is not None
                    size_bytes += added or 0
            raw.flush()
            os.fsync(raw.fileno())
        os.link(half, target)  # unlike a rename, never over a file that came meanwhile
        fsync_dir(target.parent)
    except FileExistsError as error:
        raise ConfigError(f"{target} is there already: give another name, it is not overwritten") from error
    finally:
        half.unlink(missing_ok=True)
    return Backup(role, name, created, num_files, size_bytes)


def restore(home: Path, source: Path, *, role: str) -> Backup:
    """Make a home of a backup.

    Args:
        home: a folder that is not there, or is empty.

    Raises:
        ConfigError: the home is not empty, or the file is no backup of such a home; nothing was written.
        NoSpace: the disk is full; the home is as it was.
    """
    home = home.expanduser().absolute()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ConfigError(
            f"{home} is not empty: a backup is restored into a folder that is not there, or is empty"
        )
    half = home.with_name(f".{home.name}.{os.getpid()}.restored")
    num_files = size_bytes = 0
    try:
        with no_space_is_an_error(home):
            make_folder(home.parent)
            with new_folder(half), _opened(source) as archive:
                about = _manifest(archive, source, role)
                for member in archive:
                    if member.name == MANIFEST_NAME:
                        continue
                    path = half / _checked(member.name, source)
                    if member.isdir():
                        make_folder(path)
                        continue
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is None:
                        raise ConfigError(f"{source} holds something that is no file, {member.name[:80]!r}")
                    make_folder(path.parent)
                    _write(path, content, member.mode)
                    num_files += 1
                    size_bytes += member.size
                os.rename(half, home)
            fsync_dir(home.parent)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{source} is damaged ({error}): take another backup") from error
    check_role_of_home(home, role)
    return Backup(role, *about, num_files, size_bytes)


def _files(folder: Path, leave_out: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Yield the regular files below a folder by their names in it."""
    for root, folders, names in os.walk(folder):
        at = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if str(at / name) not in leave_out)
        for name in names:
            path, inside = Path(root) / name, str(at / name)
            is_passing = name.endswith((".tmp", "-wal", "-shm", ".lock")) or name == "lock"
            if inside not in leave_out and not is_passing and path.is_file() and not path.is_symlink():
                yield inside, path


def _add(archive: tarfile.TarFile, inside: str, path: Path, folder: Path) -> int | None:
    """Add a file; return its size, None where it went meanwhile."""
    if inside.endswith(".sqlite"):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fedjob-backup-") as own:
            copy = Path(own) / path.name
            _copy_database(path, copy)
            return _add_file(archive, inside, copy)
    return _add_file(archive, inside, path)


def _copy_database(path: Path, copy: Path) -> None:
    source, target = sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.connect(copy)
    try:
        source.backup(target)
    except sqlite3.Error as error:
        if "full" in str(error):
            raise NoSpace(f"no space left to copy {path}: give a file on another disk") from error
        raise ConfigError(f"{path} can't be copied ({error})") from error
    finally:
        source.close()
        target.close()


def _add_file(archive: tarfile.TarFile, inside: str, path: Path) -> int | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None  # it was there for a task that has ended
    with file:
        stat = os.fstat(file.fileno())
        info = tarfile.TarInfo(inside)
        info.size, info.mtime, info.mode = stat.st_size, int(stat.st_mtime), stat.st_mode & 0o700
        archive.addfile(info, file)
        return stat.st_size


def _add_bytes(archive: tarfile.TarFile, inside: str, content: bytes) -> None:
    info = tarfile.TarInfo(inside)
    info.size, info.mode = len(content), 0o600
    archive.addfile(info, io.BytesIO(content))


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def _opened(source: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(source, mode="r:gz")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(
            f"expected a backup as `fedjob node backup` writes it in {source}: {error}"
        ) from error


def _manifest(archive: tarfile.TarFile, source: Path, role: str) -> tuple[str, float]:
    """Return the party whose home it is, and when it was copied."""
    first = archive.next()
    content = archive.extractfile(first) if first is not None and first.name == MANIFEST_NAME else None
    try:
        about = {} if content is None else json.loads(content.read(_MAX_MANIFEST_BYTES))
    except ValueError:
        about = {}
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise ConfigError(
            f"{source} is no backup of this fedjob: expected one that `fedjob {role} backup` wrote"
        )
    if about.get("role") != role:
        raise ConfigError(f"{source} is the backup of a {about.get('role')}, not of a {role}")
    return str(about.get("party", "")), float(about.get("created", 0.0))


def _checked(name: str, source: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(f"{source} holds a file that lies outside of a home, {name[:80]!r}")
    return name


def _write(path: Path, content: IO[bytes], mode: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o700 | 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file)
    fsync_file(path)
