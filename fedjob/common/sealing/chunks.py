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
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, AEADEncryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

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
        self._algorithm = AES256(key)
        self._bound = b"fedjob object 1" + size_bytes.to_bytes(8, "big")

    def plain_size(self, index: int) -> int:
        """Return the number of plain bytes of a chunk."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def sealing(self, index: int) -> AEADEncryptionContext:
        """Return what encrypts a chunk piece by piece; its tag follows the last one."""
        sealing = self._of(index).encryptor()
        sealing.authenticate_additional_data(self._bound)
        return sealing

    def opening(self, index: int) -> AEADDecryptionContext:
        """Return what decrypts a chunk piece by piece; nothing of it may be used before `check`."""
        opening = self._of(index).decryptor()
        opening.authenticate_additional_data(self._bound)
        return opening

    def check(self, index: int, opened: AEADDecryptionContext, tag: bytes) -> None:
        """Check the tag of a chunk that was decrypted.

        Raises:
            ChunkCorrupt: it is not the chunk that was encrypted at this place of this content under this key.
        """
        try:
            opened.finalize_with_tag(tag)
        except (InvalidTag, ValueError) as error:
            raise ChunkCorrupt(
                f"chunk {index + 1} of {self.num_chunks} can't be decrypted: its bytes were changed, or are of "
                "another object or key"
            ) from error

    def _of(self, index: int) -> Cipher[GCM]:
        return Cipher(self._algorithm, GCM(self._nonce(index)))

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
        most = min(BLOCK_BYTES, self.size_bytes)
        sealed = memoryview(bytearray(most + 2 * TAG_BYTES))
        with _reading(self.source, most) as read:
            for index in range(cipher.num_chunks):
                sealing = cipher.sealing(index)
                start, left = self.start + index * CHUNK_BYTES, cipher.plain_size(index)
                while (
                    left > BLOCK_BYTES
                ):  # small enough that what is read is still in the processor's cache when it is sent
                    yield sealed[: sealing.update_into(read(start, BLOCK_BYTES), sealed)]
                    start, left = start + BLOCK_BYTES, left - BLOCK_BYTES
                count = sealing.update_into(read(start, left), sealed)
                sealing.finalize()
                sealed[count : count + TAG_BYTES] = sealing.tag
                yield sealed[: count + TAG_BYTES]


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
    cipher = ChunkCipher(key, len(data) - TAG_BYTES)
    opening = cipher.opening(0)
    plain = opening.update(data[:-TAG_BYTES])
    cipher.check(0, opening, data[-TAG_BYTES:])
    return plain


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
