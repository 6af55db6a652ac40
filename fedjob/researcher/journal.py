"""The replies of a round, durable before their receipts: an append-only file.

A record is 4 bytes of length, 4 of CRC-32, and msgpack. A torn tail, which a
kill or a power cut may leave, is cut off when the file is read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.durable import fsync_dir
from fedjob.common.errors import DecodeError


class Journal:
    """A round's journal, open for appending."""

    def __init__(self, path: Path) -> None:
        fresh = not path.exists()
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        if fresh:
            fsync_dir(path.parent)
        else:
            os.ftruncate(self._descriptor, sum(8 + len(raw) for raw in _records(path)))

    def append(self, records: Sequence[Any]) -> None:
        """Write records and return when they are durable: one fsync for all."""
        data = b"".join(
            len(raw).to_bytes(4, "little") + zlib.crc32(raw).to_bytes(4, "little") + raw
            for raw in map(pack, records)
        )
        os.write(self._descriptor, data)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_journal(path: Path) -> list[Any]:
    """Return the whole records of a journal, none if there is no file."""
    try:
        return [unpack(raw) for raw in _records(path)]
    except DecodeError:
        return []


def _records(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    data, found, at = path.read_bytes(), [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        raw = data[at + 8 : at + 8 + length]
        if len(raw) != length or zlib.crc32(raw) != int.from_bytes(data[at + 4 : at + 8], "little"):
            break
        found.append(raw)
        at += 8 + length
    return found
