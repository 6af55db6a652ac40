"""Blinded identifiers: the order of keys does not matter, and nothing that is no point is taken."""

from __future__ import annotations

import pytest

from fedjob.privacy.blinding import POINT_BYTES, blind, divided, joined, new_key, point_of


def test_the_order_of_keys_does_not_matter_and_every_key_does() -> None:
    one, other = new_key(), new_key()
    points = [point_of("ann"), point_of("bob"), point_of("ann")]
    both = list(blind(one, blind(other, points)))
    assert both == list(blind(other, blind(one, points)))
    assert both[0] == both[2] != both[1]
    assert list(blind(one, points)) != list(blind(other, points))


def test_every_identifier_stands_for_a_point_of_the_curve_itself_the_same_everywhere() -> None:
    prime = 2**255 - 19
    for identifier in ("", "ann", "Zoë", "1" * 1000):
        x = int.from_bytes(point_of(identifier), "little")
        square = (x**3 + 486662 * x**2 + x) % prime
        assert pow(square, (prime - 1) // 2, prime) == 1
    known = "4fef0f3e8ea9993dd87766bc86bde1abbcad23277e7c7e4a8c152c422d99273f"
    assert len(point_of("ann")) == POINT_BYTES
    assert point_of("ann").hex() == known


def test_what_is_no_point_is_refused() -> None:
    for wrong in (b"", b"x" * 31, bytes(POINT_BYTES)):  # zero is a point that every key leaves as it is
        with pytest.raises(ValueError, match=r"."):
            list(blind(new_key(), [wrong]))
    with pytest.raises(ValueError, match="33 bytes"):
        divided(b"x" * 33)
    assert divided(joined([point_of("a"), point_of("b")])) == [point_of("a"), point_of("b")]
