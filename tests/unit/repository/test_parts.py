"""The manifest of a large file, and what is refused of a peer's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError, FedjobError, ObjectTooLarge
from fedjob.repository.parts import (
    MAX_MANIFEST_BYTES,
    MAX_PARTS,
    PART_BYTES,
    ObjectPart,
    PartManifest,
    even_part_bytes,
)

A, B = "aa" * 32, "bb" * 32


def test_parts_have_their_places_in_the_file() -> None:
    assert PartManifest(7, 5, (A, B)).parts() == [ObjectPart(A, 0, 5), ObjectPart(B, 5, 2)]
    assert PartManifest(10, 5, (A, B)).parts() == [ObjectPart(A, 0, 5), ObjectPart(B, 5, 5)]


@given(st.integers(1, 1 << 36), st.integers(1, PART_BYTES))
def test_parts_are_as_few_as_fit_and_alike(size_bytes: int, part_bytes: int) -> None:
    even = even_part_bytes(size_bytes, part_bytes)
    count = -(-size_bytes // even)
    assert 1 <= even <= part_bytes
    assert count <= -(-size_bytes // part_bytes)
    assert size_bytes - (count - 1) * even > even - count, "the last part is much smaller"


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = PartManifest(7, 5, (A, B))
    assert PartManifest.decode(manifest.encode(), size_bytes=7) == manifest
    assert manifest.encode() == PartManifest(7, 5, (A, B)).encode()


def test_the_largest_file_has_a_manifest_within_its_limit() -> None:
    largest = PartManifest(MAX_PARTS * PART_BYTES, PART_BYTES, (A,) * MAX_PARTS)
    assert len(largest.encode()) <= MAX_MANIFEST_BYTES
    assert PartManifest.decode(largest.encode(), size_bytes=largest.size_bytes) == largest
    with pytest.raises(ObjectTooLarge, match=str(MAX_PARTS)):
        PartManifest((MAX_PARTS + 1) * PART_BYTES, PART_BYTES, (A,) * (MAX_PARTS + 1)).encode()


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        [],
        ["fedjob/parts", 1, 7, 5],
        ["fedjob/other", 1, 7, 5, bytes(64)],
        ["fedjob/parts", 2, 7, 5, bytes(64)],
        ["fedjob/parts", 1, 8, 5, bytes(64)],
        ["fedjob/parts", 1, 7, 0, bytes(64)],
        ["fedjob/parts", 1, 7, -5, bytes(64)],
        ["fedjob/parts", 1, 7, PART_BYTES + 1, bytes(32)],
        ["fedjob/parts", 1, 7, 5, bytes(63)],
        ["fedjob/parts", 1, 7, 5, bytes(96)],
        ["fedjob/parts", 1, 7, 5, "a" * 64],
        ["fedjob/parts", 1, 7.0, 5, bytes(64)],
        ["fedjob/parts", 1, 7, 5, bytes(64), "more"],
    ],
)
def test_a_manifest_whose_numbers_do_not_fit_is_refused(plain: object) -> None:
    with pytest.raises(DecodeError):
        PartManifest.decode(pack(plain), size_bytes=7)


def test_a_manifest_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="at most"):
        PartManifest.decode(bytes(MAX_MANIFEST_BYTES + 1), size_bytes=7)


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_any_bytes_are_a_manifest_or_an_error_of_ours(data: bytes, size: int) -> None:
    try:
        manifest = PartManifest.decode(data, size_bytes=size)
    except FedjobError:
        return
    assert sum(part.size_bytes for part in manifest.parts()) == size
