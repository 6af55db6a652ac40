from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError, EncodeError
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import decode_frame, encode_frame, signed_bytes

ALICE = Identity.generate("alice")


@given(st.text(max_size=20), st.binary(max_size=300))
def test_a_frame_comes_back_as_it_was_and_signed(federation: str, payload: bytes) -> None:
    frame = decode_frame(encode_frame(ALICE, federation, payload))
    assert (frame.federation, frame.sender, frame.payload) == (federation, "alice", payload)
    assert frame.signed_by(ALICE.public_key_hex)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_frame_or_a_decode_error(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except DecodeError:
        return
    assert not frame.signed_by(ALICE.public_key_hex)


@given(st.binary(max_size=60), st.data())
def test_no_bit_can_be_flipped(payload: bytes, data: st.DataObject) -> None:
    good = bytearray(encode_frame(ALICE, "fed", payload))
    place = data.draw(st.integers(0, len(good) * 8 - 1))
    good[place // 8] ^= 1 << place % 8
    try:
        frame = decode_frame(bytes(good))
    except DecodeError:
        return
    # A sender of another name is another party, whose key this signature does not fit either.
    assert not frame.signed_by(ALICE.public_key_hex)


@given(st.binary(max_size=60), st.data())
def test_no_frame_can_be_cut_short_or_continued(payload: bytes, data: st.DataObject) -> None:
    good = encode_frame(ALICE, "fed", payload)
    with pytest.raises(DecodeError):
        decode_frame(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(DecodeError):
        decode_frame(good + data.draw(st.binary(min_size=1, max_size=9)))


def test_bytes_cannot_move_between_the_signed_parts() -> None:
    assert signed_bytes("ab", "c", b"d") != signed_bytes("a", "bc", b"d")
    assert signed_bytes("a", "b", b"cd") != signed_bytes("a", "bc", b"d")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [2, "f", "s", bytes(64), b""],
        [True, "f", "s", bytes(64), b""],
        [1, b"f", "s", bytes(64), b""],
        [1, "f", 5, bytes(64), b""],
        [1, "f", "s", bytes(63), b""],
        [1, "f", "s", bytes(64), "text"],
        [1, "f", "s", bytes(64), b"", 0],
        {"version": 1},
    ],
)
def test_what_is_no_frame_is_refused(parts: object) -> None:
    with pytest.raises(DecodeError):
        decode_frame(pack(parts))


def test_a_frame_has_a_largest_size() -> None:
    with pytest.raises(EncodeError, match="at most 65536"):
        encode_frame(ALICE, "fed", bytes(MAX_FRAME_BYTES))
    with pytest.raises(DecodeError, match="at most 65536"):
        decode_frame(bytes(MAX_FRAME_BYTES + 1))
