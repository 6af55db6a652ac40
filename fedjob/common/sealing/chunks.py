"""The form in which an object's bytes are encrypted: AES-256-GCM in chunks of 1 MiB.

A chunk's nonce is its index and whether it is the last one, so that none can be left out, repeated, moved or added;
the number of all bytes is bound to each. A key is for one content alone: the same content under the same key gives the
same bytes, and no nonce ever serves two contents.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedjob.common.errors import ChunkCorrupt
from fedjob.common.files import BLOCK_BYTES, Blocks

CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
KEY_BYTES = 32


def content_key(secret: bytes, sha256: str, kind: str = "object") -> bytes:
    """Return the key of one content of a job.

    Args:
        secret: of the party and the job, 32 bytes.
        sha256: of the plain content, in hex.
        kind: `object`, or another word for a content that this hash does not name by itself.

    Returns:
        32 bytes; equal for equal arguments, and unrelated for others (HMAC-SHA-256).
    """
    return hmac.digest(secret, f"fedjob {kind}\0".encode() + bytes.fromhex(sha256), hashlib.sha256)


def sealed_size(size_bytes: int) -> int:
    """Return how many bytes a content has when it is encrypted; an empty one has a chunk, too."""
    return size_bytes + TAG_BYTES * max(1, -(-size_bytes // CHUNK_BYTES))


class ChunkCipher:
    """The cipher of one content.

    Args:
        key: `content_key` of this very content, 32 bytes.
        size_bytes: of the whole plain content.
    """

    def __init__(self, key: bytes, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.num_chunks = max(1, -(-size_bytes // CHUNK_BYTES))
        self._cipher = AESGCM(key)
        self._bound = b"fedjob object 1" + size_bytes.to_bytes(8, "big")

    def plain_size(self, index: int) -> int:
        """Return the number of plain bytes of a chunk."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def seal(self, index: int, chunk: bytes | bytearray | memoryview, into: bytearray | memoryview) -> None:
        """Encrypt a chunk into a buffer that is 16 bytes longer."""
        self._cipher.encrypt_into(self._nonce(index), chunk, self._bound, into)

    def open(self, index: int, sealed: bytes | bytearray | memoryview, into: bytearray | memoryview) -> None:
        """Decrypt a chunk into a buffer of exactly its plain size.

        Raises:
            ChunkCorrupt: it is not the chunk that was encrypted at this place of this content under this key.
        """
        try:
            self._cipher.decrypt_into(self._nonce(index), sealed, self._bound, into)
        except (InvalidTag, ValueError) as error:
            raise ChunkCorrupt(
                f"chunk {index + 1} of {self.num_chunks} can't be decrypted: its bytes were changed, or are of "
                "another object or key"
            ) from error

    def _nonce(self, index: int) -> bytes:
        return index.to_bytes(11, "big") + bytes([index == self.num_chunks - 1])


@dataclass(frozen=True, slots=True)
class SealedBlocks(Blocks):
    """A range of a file or of bytes, encrypted as it is read; iterating yields the encrypted bytes, `len` is their number.

    Args:
        key: of the range's content, 32 bytes.
    """

    key: bytes = b""

    def __len__(self) -> int:
        return sealed_size(self.size_bytes)

    def __iter__(self) -> Iterator[memoryview]:
        cipher = ChunkCipher(self.key, self.size_bytes)
        sealed = bytearray(cipher.plain_size(0) + TAG_BYTES)
        with _reading(self.source, cipher.plain_size(0)) as read:
            for index in range(cipher.num_chunks):
                chunk = read(self.start + index * CHUNK_BYTES, cipher.plain_size(index))
                view = memoryview(sealed)[: len(chunk) + TAG_BYTES]
                cipher.seal(index, chunk, view)
                for at in range(0, len(view), BLOCK_BYTES):
                    yield view[at : at + BLOCK_BYTES]


def sealed(key: bytes, data: bytes) -> bytes:
    """Return bytes of one chunk at most, encrypted."""
    return b"".join(map(bytes, SealedBlocks(data, 0, len(data), key)))


def unsealed(key: bytes, data: bytes) -> bytes:
    """Return the bytes that `sealed` encrypted.

    Raises:
        ChunkCorrupt: they were changed, or are of another key.
    """
    if len(data) < TAG_BYTES:
        raise ChunkCorrupt(f"expected at least {TAG_BYTES} encrypted bytes, found {len(data)}")
    plain = bytearray(len(data) - TAG_BYTES)
    ChunkCipher(key, len(plain)).open(0, data, plain)
    return bytes(plain)


@contextmanager
def _reading(source: Path | bytes, most: int) -> Generator[Callable[[int, int], memoryview], None, None]:
    """Yield a function `(start, size) -> bytes`, shorter where the source ends; valid until it is called again.

    Args:
        most: the largest size that is asked for.
    """
    if isinstance(source, bytes):
        whole = memoryview(source)
        yield lambda start, size: whole[start : start + size]
        return
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    buffer = memoryview(bytearray(most))

    def read(start: int, size: int) -> memoryview:
        have = 0
        while have < size and (count := os.preadv(descriptor, [buffer[have:size]], start + have)):
            have += count
        return buffer[:have]

    try:
        yield read
    finally:
        os.close(descriptor)
