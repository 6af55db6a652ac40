"""The form in which a file larger than one object is stored: parts, and a manifest that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, ObjectTooLarge
from fedjob.common.files import Blocks
from fedjob.common.sealing.chunks import sealed_size
from fedjob.common.types import Ref

PART_BYTES = 64 << 20
"""The largest size of an object, and the size of every part but the last."""

MAX_PARTS = 1024
MAX_MANIFEST_BYTES = 64 << 10
MAX_SEALED_MANIFEST_BYTES = 256 << 10
MAX_OBJECT_BYTES = sealed_size(PART_BYTES)
"""The largest size of what is stored under one name: an encrypted part."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One part of a file: its hash, and its range of the file's bytes.

    Args:
        cipher, key: as in `Ref`; empty for a part that is stored as it is.
    """

    sha256: str
    start: int
    size_bytes: int
    cipher: str = ""
    key: str = field(default="", repr=False)

    @property
    def stored_as(self) -> str:
        """The name by which the repository knows the part."""
        return self.cipher or self.sha256


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
        return cls(size, part, _hashes(joined))


@dataclass(frozen=True, slots=True)
class SealedManifest:
    """The manifest of a file whose parts are encrypted: the plain one, and the name and the key of each part."""

    manifest: bytes
    ciphers: tuple[str, ...]
    keys: tuple[str, ...] = field(repr=False)

    def encode(self) -> bytes:
        """Return its bytes, which are encrypted themselves before they are stored."""
        names, keys = (b"".join(map(bytes.fromhex, each)) for each in (self.ciphers, self.keys))
        return pack(["fedjob/sealed-parts", _VERSION, self.manifest, names, keys])

    @classmethod
    def decode(cls, data: bytes) -> SealedManifest:
        """Return the manifest that `data` holds.

        Raises:
            DecodeError: the data hold no such manifest.
        """
        match unpack(data, limit_bytes=MAX_SEALED_MANIFEST_BYTES):
            case ["fedjob/sealed-parts", int(version), bytes(manifest), bytes(names), bytes(keys)]:
                if version != _VERSION:
                    raise DecodeError(
                        f"expected a manifest of version {_VERSION}, found {version}: update fedjob"
                    )
                return cls(manifest, _hashes(names), _hashes(keys))
        raise DecodeError("expected a manifest of encrypted parts, found something else")

    def parts(self, *, size_bytes: int) -> list[ObjectPart]:
        """Return the parts with their positions in the file, their names and their keys.

        Raises:
            DecodeError: the numbers of parts, names and keys differ, or the size does.
        """
        parts = PartManifest.decode(self.manifest, size_bytes=size_bytes).parts()
        if not len(parts) == len(self.ciphers) == len(self.keys):
            raise DecodeError(f"expected names and keys of {len(parts)} parts, found {len(self.ciphers)}")
        return [
            replace(part, cipher=cipher, key=key)
            for part, cipher, key in zip(parts, self.ciphers, self.keys, strict=True)
        ]


def even_part_bytes(size_bytes: int, part_bytes: int) -> int:
    """Return the size of the parts of a file: as few as fit `part_bytes`, and alike, so that none is waited for alone."""
    return -(-size_bytes // -(-size_bytes // part_bytes))


def _hashes(joined: bytes) -> tuple[str, ...]:
    return tuple(joined[i : i + 32].hex() for i in range(0, len(joined) - 31, 32))


def _fields(plain: Any) -> tuple[int, int, int, bytes]:
    match plain:
        case ["fedjob/parts", int(version), int(size), int(part), bytes(joined)]:
            return version, size, part, joined
    raise DecodeError("expected a manifest of parts, found something else")


def ref_of(source: Path | bytes, part_bytes: int = PART_BYTES) -> Ref:
    """Return the ref that `Repository.put` would return for a file or bytes, without storing them."""
    size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size_bytes <= part_bytes:
        return Ref(Blocks(source, 0, size_bytes).sha256(), size_bytes)
    even = even_part_bytes(size_bytes, part_bytes)
    hashes = [
        Blocks(source, start, min(even, size_bytes - start)).sha256() for start in range(0, size_bytes, even)
    ]
    manifest = PartManifest(size_bytes, even, tuple(hashes)).encode()
    return Ref(hashlib.sha256(manifest).hexdigest(), size_bytes, parts=True)
