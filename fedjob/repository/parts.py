"""The form in which a file larger than one object is stored: parts, and a manifest that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, ObjectTooLarge
from fedjob.common.files import Blocks
from fedjob.common.types import Ref

PART_BYTES = 64 << 20
"""The largest size of an object, and the size of every part but the last."""

MAX_PARTS = 1024
MAX_MANIFEST_BYTES = 64 << 10
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One part of a file: its hash, and its range of the file's bytes."""

    sha256: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PartManifest:
    """The parts of a file, in order. All but the last are `part_bytes` long."""

    size_bytes: int
    part_bytes: int
    hashes: tuple[str, ...]

    def parts(self) -> list[ObjectPart]:
        """Return the parts with their positions in the file."""
        return [
            ObjectPart(sha256, start, min(self.part_bytes, self.size_bytes - start))
            for sha256, start in zip(self.hashes, range(0, self.size_bytes, self.part_bytes), strict=True)
        ]

    def encode(self) -> bytes:
        """Return the manifest's bytes; equal manifests give equal bytes.

        Raises:
            ObjectTooLarge: the file has too many parts.
        """
        if len(self.hashes) > MAX_PARTS:
            raise ObjectTooLarge(
                f"expected at most {MAX_PARTS} parts of {self.part_bytes} bytes, found {len(self.hashes)}"
            )
        joined = b"".join(bytes.fromhex(sha256) for sha256 in self.hashes)
        return pack(["fedjob/parts", _VERSION, self.size_bytes, self.part_bytes, joined])

    @classmethod
    def decode(cls, data: bytes, *, size_bytes: int) -> PartManifest:
        """Return the manifest that `data` holds.

        Args:
            size_bytes: the size in the ref; a manifest with another size is refused.

        Raises:
            DecodeError: the data hold no manifest, or its numbers don't fit together.
        """
        version, size, part, joined = _fields(unpack(data, limit_bytes=MAX_MANIFEST_BYTES))
        if version != _VERSION:
            raise DecodeError(f"expected a manifest of version {_VERSION}, found {version}: update fedjob")
        if size != size_bytes:
            raise DecodeError(f"the ref is of {size_bytes} bytes, its manifest of {size}")
        if not 1 <= part <= PART_BYTES:
            raise DecodeError(f"expected parts of 1 to {PART_BYTES} bytes, found {part}")
        count = -(-size // part)
        if not 1 <= count <= MAX_PARTS or len(joined) != 32 * count:
            raise DecodeError(f"expected {count} hashes of 32 bytes, found {len(joined)} bytes of them")
        return cls(size, part, tuple(joined[i : i + 32].hex() for i in range(0, len(joined), 32)))


def _fields(plain: Any) -> tuple[int, int, int, bytes]:
    match plain:
        case ["fedjob/parts", int(version), int(size), int(part), bytes(joined)]:
            return version, size, part, joined
    raise DecodeError("expected a manifest of parts, found something else")


def ref_of(source: Path | bytes, part_bytes: int = PART_BYTES) -> Ref:
    """Return the ref that `Repository.put` would return for a file or bytes, without storing them."""
    size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    hashes = [
        Blocks(source, start, min(part_bytes, size_bytes - start)).sha256()
        for start in range(0, size_bytes, part_bytes) or (0,)
    ]
    if size_bytes <= part_bytes:
        return Ref(hashes[0], size_bytes)
    manifest = PartManifest(size_bytes, part_bytes, tuple(hashes)).encode()
    return Ref(hashlib.sha256(manifest).hexdigest(), size_bytes, parts=True)
