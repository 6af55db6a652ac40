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
    plain = memoryview(
        bytearray(cipher.plain_size(first) + TAG_BYTES)
    )  # a cipher asks for a little more than it fills
    index, have, tag = first, 0, b""
    opening = None
    for piece in pieces:
        left = memoryview(piece)
        while left:
            if index >= cipher.num_chunks:
                raise ChunkCorrupt(f"more bytes came than the {cipher.num_chunks} chunks that there are")
            opening = opening or cipher.opening(index)
            size = cipher.plain_size(index)
            count = min(size - have, len(left))
            if (
                count
            ):  # while the bytes are in the processor's cache; nobody sees them before the tag is checked
                opening.update_into(left[:count], plain[have:])
                have, left = have + count, left[count:]
            missing = TAG_BYTES - len(tag)
            if have == size and left:
                tag, left = tag + bytes(left[:missing]), left[missing:]
            if len(tag) == TAG_BYTES:
                cipher.check(index, opening, tag)
                yield plain[:size]
                index, have, tag, opening = index + 1, 0, b"", None
    if index < cipher.num_chunks:
        raise ChunkCorrupt(f"cut short in chunk {index + 1} of {cipher.num_chunks}")
