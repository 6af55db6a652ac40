"""A file or a folder as one archive, packed to the same bytes for the same content, and unpacked within limits.

The archive is a zip file with one entry at its top: the file, or the folder. Names are sorted, times are fixed, and
owners and rights of files are left out. An archive of a peer is not trusted: it is refused if a path in it leads out of
the folder, if it holds a link, or if it unpacks to more bytes than are allowed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from fedjob.common.errors import DecodeError, ObjectTooLarge, SpecError
from fedjob.common.files import fsync_file, is_own_name, make_folder, new_folder, private, remove_folder
from fedjob.data.leftovers import is_leftover

MAX_FILES = 100_000
MAX_NAME_BYTES = 512
MAX_PART_BYTES = 255
"""Of the name of one file or folder."""

MAX_DIRECTORY_BYTES = 24 << 20
"""Of the list of an archive's files, which is read as a whole."""
ASSETS_FOLDER = "assets"
_END_BYTES, _LOCATOR_BYTES, _LARGE_END_BYTES = 22, 20, 56
"""Of the record at an archive's end, and of the two before it that a large archive has."""

_TIME = (1980, 1, 1, 0, 0, 0)
_BLOCK_BYTES = 1 << 20
_SQUEEZED = frozenset(
    {
        ".gz",
        ".bz2",
        ".xz",
        ".zst",
        ".zip",
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".gif",
        ".parquet",
        ".npz",
        ".mp4",
    }
)
"""Endings of files that are compressed already, and are stored as they are."""

_ODD = re.compile(r"[\x00-\x1f\x7f\\:]")


def pack_data(source: Path, target: Path) -> None:
    """Write a file or a folder as one archive to a new file, and fsync it.

    Raises:
        SpecError: nothing readable there, a folder without files, or a file that is neither
            file nor folder, such as a link.
    """
    source = source.absolute()
    try:
        with (
            open(target, "xb", opener=private) as made,
            zipfile.ZipFile(made, "w", allowZip64=True) as archive,
        ):
            num_files = 0
            for path in _files_of(source):
                num_files += 1
                if num_files > MAX_FILES:
                    raise SpecError(
                        f"{source} has more than {MAX_FILES} files: bring a table or an archive of them"
                    )
                with path.open("rb") as file:
                    _add(archive, path.relative_to(source.parent).as_posix(), file)
            if not num_files:
                raise SpecError(f"there is no file in {source}: nothing to bring")
    except OSError as error:
        target.unlink(missing_ok=True)
        raise SpecError(f"{error.filename or source} can't be read: {error.strerror or error}") from error
    except SpecError:
        target.unlink(missing_ok=True)
        raise
    fsync_file(target)


def pack_assets(sources: Mapping[str, Path], target: Path) -> None:
    """Write several named files or folders as one archive to a new file, and fsync it.

    Args:
        sources: name -> path; the archive's folder has a folder of each name with what lies at the path.

    Raises:
        SpecError: see `pack_data`.
    """
    try:
        with (
            open(target, "xb", opener=private) as made,
            zipfile.ZipFile(made, "w", allowZip64=True) as archive,
        ):
            num_files = 0
            for name, source in sources.items():
                for path in _files_of(source.absolute()):
                    num_files += 1
                    if num_files > MAX_FILES:
                        raise SpecError(f"{', '.join(sources)} have more than {MAX_FILES} files together")
                    inside = path.relative_to(source.absolute().parent).as_posix()
                    with path.open("rb") as file:
                        _add(archive, f"{ASSETS_FOLDER}/{name}/{inside}", file)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise SpecError(f"{error.filename or target} can't be read: {error.strerror or error}") from error
    except SpecError:
        target.unlink(missing_ok=True)
        raise
    fsync_file(target)


def unpacked_asset(folder: Path, name: str) -> Path:
    """Return where a named file or folder lies in the folder of an archive that `pack_assets` wrote.

    Raises:
        DecodeError: it is not there.
    """
    found = list((folder / name).iterdir()) if is_asset_name(name) and (folder / name).is_dir() else []
    if len(found) != 1:
        raise DecodeError(f"the archive holds no data named {name[:80]!r}")
    return found[0]


def is_asset_name(name: str) -> bool:
    """Return whether a peer's name of an asset names a folder beside others, and nothing above."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name))


def pack_stream(file: IO[bytes], name: str, target: Path) -> None:
    """Write what is left of an open file as an archive with one file, `name`.

    Raises:
        SpecError: it is not open for reading bytes.
    """
    try:
        with (
            open(target, "xb", opener=private) as made,
            zipfile.ZipFile(made, "w", allowZip64=True) as archive,
        ):
            _add(archive, _check_name(Path(name).name), file)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        target.unlink(missing_ok=True)
        raise SpecError(f"{name} can't be read: open it with open(path, 'rb') ({error})") from error
    fsync_file(target)


def unpack_data(archive_path: Path, folder: Path, *, limit_bytes: int) -> Path:
    """Unpack an archive into a new folder, read-only; return the path of the file or folder in it.

    Raises:
        DecodeError: it is no such archive, or a name in it leads elsewhere.
        ObjectTooLarge: it would unpack to more than `limit_bytes`, or to too many files.
    """
    try:
        _check_directory(archive_path)
        with new_folder(folder), zipfile.ZipFile(archive_path) as archive:
            entries = archive.infolist()
            tops = _check_entries(entries, limit_bytes)
            left = limit_bytes
            for entry in entries:
                left -= _extract(archive, entry, folder / entry.filename, left)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise DecodeError(f"the data that were brought can't be unpacked: {error}") from error
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o500 if path.is_dir() else 0o400)
    folder.chmod(0o500)
    return folder / tops


def unpacked_once(folder: Path, fetch: Callable[[Path], object], *, limit_bytes: int) -> Path:
    """Return the path of the file or folder in a read-only folder, which an archive is unpacked into if need be.

    Args:
        folder: there whole or not at all.
        fetch: writes the archive to the path that it is given.

    Raises:
        DecodeError, ObjectTooLarge: see `unpack_data`; and what `fetch` raises.
    """
    if not folder.exists():
        make_folder(folder.parent)
        archive = folder.with_name(f"{folder.name}.zip")
        begun = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            fetch(archive)
            unpack_data(archive, begun, limit_bytes=limit_bytes)
        finally:
            archive.unlink(missing_ok=True)
        begun.chmod(0o700)  # a folder that may not be written to can't be renamed
        begun.rename(folder)
        folder.chmod(0o500)
    return next(folder.iterdir())


def remove_data(folder: Path) -> None:
    """Remove what `unpack_data` made; not there is no error.

    Raises:
        ValueError: the folder's name is none that fedjob unpacks into.
    """
    if not folder.exists():
        return
    if not is_own_name(folder.name):
        raise ValueError(f"{folder} is not removed: nothing shows that fedjob wrote it")
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    remove_folder(folder)


def _files_of(source: Path) -> Iterator[Path]:
    """Yield the files to pack, sorted by name, without what systems and programs left among them."""
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise SpecError(f"there is no file or folder {source}")
    for path in sorted(source.rglob("*"), key=lambda found: found.relative_to(source).as_posix()):
        if any(map(is_leftover, path.relative_to(source).parts)):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            raise SpecError(f"{path} is no plain file: replace links and the like by copies")


def _add(archive: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    entry = zipfile.ZipInfo(_check_name(name), _TIME)
    squeezed = Path(name).suffix.lower() in _SQUEEZED
    entry.compress_type = zipfile.ZIP_STORED if squeezed else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100400 << 16
    entry.create_system = 3
    with archive.open(entry, "w", force_zip64=True) as packed:
        shutil.copyfileobj(file, packed, _BLOCK_BYTES)


def _check_name(name: str) -> str:
    if not name or _ODD.search(name) or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise SpecError(
            f"a file can't travel under the name {name[:80]!r}: no control characters, backslashes or colons, at "
            f"most {MAX_NAME_BYTES} bytes"
        )
    return name


def _check_entries(entries: list[zipfile.ZipInfo], limit_bytes: int) -> str:
    """Check the list of an archive's entries before anything is written, and return the name at its top."""
    if not 0 < len(entries) <= MAX_FILES:
        raise ObjectTooLarge(f"an archive has 1 to {MAX_FILES} files, this one {len(entries)}")
    seen: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        parts = entry.filename.split("/")
        wrong = (
            _ODD.search(entry.orig_filename)
            or len(entry.filename.encode("utf-8", "replace")) > MAX_NAME_BYTES
            or any(
                part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > MAX_PART_BYTES
                for part in parts
            )
            or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or entry.flag_bits & 0x1
            or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG)
        )
        folded = _folded(entry.filename)
        above = {folded[:place] for place, sign in enumerate(folded) if sign == "/"}
        if wrong or folded in seen or folded in folders or above & seen:
            raise DecodeError(f"an archive may not hold {entry.filename[:80]!r}")
        seen.add(folded)
        folders |= above
    if sum(entry.file_size for entry in entries) > limit_bytes:
        raise ObjectTooLarge(f"the archive says to unpack to more than {limit_bytes} bytes")
    tops = {entry.filename.split("/")[0] for entry in entries}
    if len(tops) != 1:
        raise DecodeError("an archive has one file or one folder at its top")
    return tops.pop()


def _folded(name: str) -> str:
    """Return a name as file systems compare names that take no account of case or of how accents are written."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _check_directory(archive_path: Path) -> None:
    """Refuse an archive whose list of files is so long that reading it would fill the memory.

    See "ZIP File Format Specification", 4.3.14 to 4.3.16, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
    """
    with archive_path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _END_BYTES - 0xFFFF - _LOCATOR_BYTES)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + _END_BYTES > len(tail):
            raise DecodeError("what was fetched is no archive: it has no list of files")
        lengths = [struct.unpack_from("<I", tail, at + 12)[0]]
        if at >= _LOCATOR_BYTES and tail[at - _LOCATOR_BYTES :].startswith(b"PK\6\7"):
            named = struct.unpack_from("<Q", tail, at - _LOCATOR_BYTES + 8)[0]
            before = (
                start + at - _LOCATOR_BYTES - _LARGE_END_BYTES
            )  # where Python looks for it, whatever is named
            for place in (min(named, size), max(0, before)):
                file.seek(place)
                record = file.read(_LARGE_END_BYTES)
                if record.startswith(b"PK\6\6") and len(record) == _LARGE_END_BYTES:
                    lengths.append(struct.unpack_from("<Q", record, 40)[0])
    real = [length for length in lengths if length != 0xFFFFFFFF]
    if any(length > MAX_DIRECTORY_BYTES for length in real):
        raise ObjectTooLarge(
            f"the archive's list of files has {max(real)} bytes, at most {MAX_DIRECTORY_BYTES} are read"
        )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit_bytes: int) -> int:
    """Write one entry and return its size, counted while it is unpacked: the size in the archive may be wrong."""
    make_folder(target.parent)
    done = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with archive.open(entry) as packed, open(os.open(target, flags, 0o600), "wb") as file:
        while block := packed.read(_BLOCK_BYTES):
            done += len(block)
            if done > limit_bytes:
                raise ObjectTooLarge(f"the archive unpacks to more than {limit_bytes} bytes")
            file.write(block)
    return done
