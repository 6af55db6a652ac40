"""The meter of a line."""

from __future__ import annotations

import time

import pytest

from fedjob.repository.line_meter import LEAST_BYTES, MAX_STRETCHES, LineMeter


def test_transfers_at_the_same_time_are_one_stretch() -> None:
    meter, began = LineMeter(), time.monotonic()
    with meter.moving("down", LEAST_BYTES), meter.moving("down", 2 * LEAST_BYTES):
        while time.monotonic() - began < 0.01:
            pass
    (found,) = meter.take()
    assert (found.way, found.size_bytes) == ("down", 3 * LEAST_BYTES)
    assert 0.01 <= found.seconds <= time.monotonic() - began
    assert meter.take() == []


def test_each_way_is_counted_by_itself_and_small_objects_are_not() -> None:
    meter = LineMeter()
    with (
        meter.moving("down", LEAST_BYTES),
        meter.moving("up", LEAST_BYTES),
        meter.moving("up", LEAST_BYTES - 1),
    ):
        pass
    assert sorted((one.way, one.size_bytes) for one in meter.take()) == [
        ("down", LEAST_BYTES),
        ("up", LEAST_BYTES),
    ]


def test_a_transfer_that_fails_tells_nothing() -> None:
    meter = LineMeter()
    with pytest.raises(OSError, match="gone"), meter.moving("up", LEAST_BYTES):
        raise OSError("gone")
    assert meter.take() == []
    with meter.moving("up", LEAST_BYTES):
        pass
    assert len(meter.take()) == 1


def test_only_the_newest_stretches_are_held() -> None:
    meter = LineMeter()
    for number in range(MAX_STRETCHES + 9):
        with meter.moving("up", LEAST_BYTES + number):
            pass
    found = meter.take()
    assert len(found) == MAX_STRETCHES
    assert found[-1].size_bytes == LEAST_BYTES + MAX_STRETCHES + 8
