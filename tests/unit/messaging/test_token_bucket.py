"""A bucket of tokens, by a clock of the test's own."""

from __future__ import annotations

import pytest

from fedjob.messaging.token_bucket import TokenBucket


def test_a_full_bucket_gives_so_many_at_once_and_then_so_many_a_second() -> None:
    bucket = TokenBucket(per_s=2.0, at_once=3.0, tokens=3.0, at=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(10.0) == pytest.approx(0.5)
    assert not bucket.take(10.4)
    assert bucket.take(10.5)
    assert not bucket.take(10.5)


def test_a_bucket_that_nobody_uses_does_not_overflow() -> None:
    bucket = TokenBucket(per_s=2.0, at_once=3.0, tokens=0.0, at=0.0)
    assert bucket.level(1e9) == 3.0
    assert bucket.wait_s(1e9) == 0.0
    assert [bucket.take(1e9) for _ in range(4)] == [True, True, True, False]


def test_looking_takes_nothing() -> None:
    bucket = TokenBucket(per_s=1.0, at_once=1.0, tokens=1.0, at=0.0)
    assert bucket.level(0.0) == bucket.level(0.0) == 1.0
    assert bucket.take(0.0)
