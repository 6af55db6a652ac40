"""The encryption of objects in chunks: what comes back, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.errors import ChunkCorrupt
from fedjob.common.sealing.chunk_reader import offset_of, opened_chunks
from fedjob.common.sealing.chunks import (
    CHUNK_BYTES,
    TAG_BYTES,
    ChunkCipher,
    SealedBlocks,
    content_key,
    sealed,
    sealed_size,
    unsealed,
)

KEY = bytes(range(32))
CONTENT = os.urandom(2 * CHUNK_BYTES + 77)
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
SIZES = [0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, len(CONTENT)]


def encrypted(content: bytes, key: bytes = KEY) -> bytes:
    return b"".join(map(bytes, SealedBlocks(content, 0, len(content), key)))


def decrypted(data: bytes | Iterable[bytes], size: int, key: bytes = KEY, first: int = 0) -> bytes:
    pieces = [data] if isinstance(data, bytes) else data
    return b"".join(map(bytes, opened_chunks(ChunkCipher(key, size), pieces, first=first)))


@pytest.mark.parametrize("size", SIZES)
def test_chunks_are_aes_256_gcm_with_their_index_and_whether_they_are_the_last(size: int) -> None:
    """What is encrypted piece by piece has the bytes of chunks that are encrypted as wholes."""
    count = max(1, -(-size // CHUNK_BYTES))
    expected = [
        AESGCM(KEY).encrypt(
            index.to_bytes(11, "big") + bytes([index == count - 1]),
            CONTENT[:size][index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES],
            b"fedjob object 1" + size.to_bytes(8, "big"),
        )
        for index in range(count)
    ]
    assert encrypted(CONTENT[:size]) == b"".join(expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_content_of_any_size_comes_back(size: int) -> None:
    content = CONTENT[:size]
    data = encrypted(content)
    assert len(data) == sealed_size(size) == len(SealedBlocks(content, 0, size, KEY))
    assert decrypted(data, size) == content
    assert size < 16 or content[:16] not in data


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_content_comes_back_in_whatever_pieces_it_arrives(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES) | st.integers(0, len(CONTENT)))
    whole = encrypted(CONTENT[:size])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert decrypted(pieces, size) == CONTENT[:size]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_reading_goes_on_at_any_chunk(first: int) -> None:
    rest = encrypted(CONTENT)[offset_of(first) :]
    assert decrypted(rest, len(CONTENT), first=first) == CONTENT[first * CHUNK_BYTES :]


def test_a_range_of_a_file_is_encrypted_as_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"before" + CONTENT + b"after")
    blocks = SealedBlocks(path, 6, len(CONTENT), KEY)
    assert b"".join(map(bytes, blocks)) == encrypted(CONTENT)
    assert blocks.sha256() == SealedBlocks(CONTENT, 0, len(CONTENT), KEY).sha256()


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    whole = bytearray(encrypted(CONTENT[:size]))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChunkCorrupt):
        decrypted(bytes(whole), size)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_whatever_is_cut_off_or_added_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    whole = encrypted(CONTENT[:size])
    kept = data.draw(st.sampled_from([0, SEALED_CHUNK, 2 * SEALED_CHUNK]) | st.integers(0, len(whole) - 1))
    if kept < len(whole):
        with pytest.raises(ChunkCorrupt):
            decrypted(whole[:kept], size)
    with pytest.raises(ChunkCorrupt):
        decrypted(whole + data.draw(st.binary(min_size=1, max_size=40)), size)


def test_chunks_that_change_places_are_left_out_or_come_twice_are_refused() -> None:
    whole = encrypted(CONTENT)
    chunks = [whole[i : i + SEALED_CHUNK] for i in range(0, len(whole), SEALED_CHUNK)]
    for order in ([1, 0, 2], [0, 0, 2], [0, 2], [1, 2], [0, 1, 1, 2], [0, 1], [0, 1, 2, 2]):
        with pytest.raises(ChunkCorrupt):
            decrypted(b"".join(chunks[i] for i in order), len(CONTENT))


def test_a_chunk_is_no_last_one_of_a_shorter_content() -> None:
    """What is cut at the end of a chunk is refused even by a reader who was told of the shorter size."""
    whole = encrypted(CONTENT)
    for number in (1, 2):
        with pytest.raises(ChunkCorrupt):
            decrypted(whole[: number * SEALED_CHUNK], number * CHUNK_BYTES)


@settings(deadline=None, max_examples=20)
@given(size=st.sampled_from(SIZES), claimed=st.integers(0, len(CONTENT)))
def test_a_content_of_another_size_than_claimed_is_refused(size: int, claimed: int) -> None:
    if size != claimed:
        with pytest.raises(ChunkCorrupt):
            decrypted(encrypted(CONTENT[:size]), claimed)


def test_another_object_or_key_is_refused() -> None:
    secret = os.urandom(32)
    mine, other = (content_key(secret, name * 32) for name in ("aa", "bb"))
    data = encrypted(b"one", mine)
    for key in (other, content_key(os.urandom(32), "aa" * 32), content_key(secret, "aa" * 32, "parts")):
        with pytest.raises(ChunkCorrupt):
            decrypted(data, 3, key)
    assert decrypted(data, 3, content_key(secret, "aa" * 32)) == b"one"


def test_the_same_content_of_one_job_is_the_same_bytes_and_of_two_jobs_is_not() -> None:
    first, second = os.urandom(32), os.urandom(32)
    keys = [content_key(secret, "ab" * 32) for secret in (first, first, second)]
    bytes_of = [encrypted(CONTENT[:1000], key) for key in keys]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


@given(st.binary(max_size=2000))
def test_small_bytes_come_back(data: bytes) -> None:
    assert unsealed(KEY, sealed(KEY, data)) == data


@given(st.binary(max_size=60))
def test_small_bytes_that_were_not_encrypted_are_refused(data: bytes) -> None:
    with pytest.raises(ChunkCorrupt):
        unsealed(KEY, data)
