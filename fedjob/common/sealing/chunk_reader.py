"""The reader of an encrypted object: chunks are decrypted as their bytes arrive, in whatever pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedjob.common.errors import ChunkCorrupt
from fedjob.common.sealing.chunks import CHUNK_BYTES, TAG_BYTES, ChunkCipher


def offset_of(index: int) -> int:
    """Return where a chunk begins in the encrypted bytes."""
    return index * (CHUNK_BYTES + TAG_BYTES)


def opened_chunks(
    cipher: ChunkCipher, pieces: Iterable[bytes | memoryview], *, first: int = 0
) -> Iterator[memoryview]:
    """Yield the plain bytes of each chunk; a view is valid until the next one is requested.

    Args:
        pieces: the encrypted bytes from `offset_of(first)` on.
        first: index of the chunk that they begin with.

    Raises:
        ChunkCorrupt: they were changed, cut, lengthened or moved, or are of another object or key.
    """
    sealed = memoryview(bytearray(cipher.plain_size(first) + TAG_BYTES))
    plain = memoryview(bytearray(cipher.plain_size(first)))
    index, have = first, 0
    for piece in pieces:
        left = memoryview(piece)
        while left:
            if index >= cipher.num_chunks:
                raise ChunkCorrupt(f"more bytes came than the {cipher.num_chunks} chunks that there are")
            wanted = cipher.plain_size(index) + TAG_BYTES
            count = min(wanted - have, len(left))
            sealed[have : have + count] = left[:count]
            have, left = have + count, left[count:]
            if have == wanted:
                cipher.open(index, sealed[:wanted], plain[: wanted - TAG_BYTES])
                yield plain[: wanted - TAG_BYTES]
                index, have = index + 1, 0
    if index < cipher.num_chunks:
        raise ChunkCorrupt(f"cut short in chunk {index + 1} of {cipher.num_chunks}")
