"""The versions of datasets: a hash of the content under a key of the node's, which changes when the data do.

A version goes to every researcher who may see the dataset. Without the key nobody can confirm a guess about the
content, such as the one value of a patient that they don't know; at one node the same bytes have the same version.

A grant is about the data that its owner saw it asked for. Small files are hashed
whole; of large ones the size, the time of change and both ends, so that looking
costs little however much there is. Times count for large files only: restoring a
small one from a backup leaves its version as it was.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedjob.data.leftovers import is_leftover

WHOLE_BYTES = 8 << 20
"""Files up to this size are hashed whole."""

END_BYTES = 1 << 20
MAX_OPENED = 2000
"""Of a folder with more files only names, sizes and times count."""

LOOK_EVERY_S = 1.0

Signature = tuple[tuple[str, int, int], ...]


class Versions:
    """The versions of files and folders, computed again only when something about them changed.

    Args:
        key: the node's own, see `Datasets.versions`. Empty for plain hashes, which must not leave this process.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._known: dict[str, tuple[Signature, str]] = {}
        self._due: dict[str, float] = {}

    def of_parts(self, parts: Mapping[str, str]) -> str:
        """Return one version of several parts of a dataset; empty where one of them is gone.

        Args:
            parts: asset -> path; one without a name has the version of what lies there.
        """
        found = {name: self._hash_of(path) for name, path in parts.items()}
        if not all(found.values()):
            return ""
        if list(found) == [""]:
            return keyed(self._key, found[""])
        text = "\0".join(f"{name}\0{version}" for name, version in found.items())
        return keyed(self._key, hashlib.sha256(text.encode()).hexdigest())

    def of(self, path: str) -> str:
        """Return the version of what lies there; empty where nothing does."""
        return keyed(self._key, self._hash_of(path))

    def _hash_of(self, path: str) -> str:
        now = time.monotonic()
        if path in self._known and now < self._due.get(path, 0.0):
            return self._known[path][1]
        try:
            signature = tuple(sorted(_signature(Path(path))))
            known = self._known.get(path)
            if known is None or known[0] != signature:
                self._known[path] = (signature, _version(Path(path), signature))
        except OSError:
            return ""
        # looking at a large folder takes a while: at most a twentieth of the time goes into it
        took = time.monotonic() - now
        self._due[path] = now + max(LOOK_EVERY_S, 20 * took)
        return self._known[path][1]


def keyed(key: bytes, plain: str) -> str:
    """Return the version that a plain hash of content has at the node with this key; empty for none."""
    return hmac.new(key, plain.encode(), hashlib.sha256).hexdigest() if key and plain else plain


def _signature(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_file():
        found = path.stat()
        yield "", found.st_size, found.st_mtime_ns
        return
    folders = [(path, "")]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_leftover(entry.name):
                    continue
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append((Path(entry.path), f"{name}/"))
                else:
                    yield name, *_size_and_time(entry)


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return both; the size is -1 of what is no file to be read, such as a pipe or a link to nowhere."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        found = entry.stat(follow_symlinks=False)
    return found.st_size if stat.S_ISREG(found.st_mode) else -1, found.st_mtime_ns


def _version(path: Path, signature: Signature) -> str:
    digest = hashlib.sha256()
    for name, size, changed in signature:
        content = b""
        if size >= 0 and len(signature) <= MAX_OPENED:
            content = _content(path / name if name else path, size)
        if size > WHOLE_BYTES or not content:
            content += b"%d" % changed
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape") + content + b"\0")
    return digest.hexdigest()


def _content(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            while block := file.read(END_BYTES):
                digest.update(block)
        else:
            digest.update(file.read(END_BYTES))
            file.seek(-END_BYTES, os.SEEK_END)
            digest.update(file.read(END_BYTES))
    return digest.digest()
