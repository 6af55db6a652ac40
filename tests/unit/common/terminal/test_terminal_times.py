"""Times are shown in the reader's zone, which is named, and are UTC for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fedjob.common.terminal.times import in_utc, utc, when, when_of_text

AT = 1_796_036_591.25  # 2026-11-30 11:03:11 UTC


@pytest.fixture(params=["UTC", "Europe/Berlin", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_a_time_is_short_and_in_the_readers_zone(zone: str) -> None:
    expected = {
        "UTC": "2026-11-30 11:03 UTC",
        "Europe/Berlin": "2026-11-30 12:03 CET",
        "Asia/Kolkata": "2026-11-30 16:33 IST",
    }[zone]
    assert when(AT) == expected
    assert when_of_text("2026-11-30T11:03:11.250000Z") == expected
    assert utc(AT) == "2026-11-30T11:03:11.250000Z", "whatever the zone is"


def test_no_time_is_a_dash_and_what_is_none_stays() -> None:
    assert (when(None), when(0, "never"), when_of_text(""), when_of_text("soon")) == (
        "-",
        "never",
        "-",
        "soon",
    )
    assert utc(None) is None


def test_only_times_of_plain_data_become_texts() -> None:
    plain = {"id": "a", "requested": AT, "ended": None, "round": 3, "uses": 1.5}
    assert in_utc(plain) == {**plain, "requested": "2026-11-30T11:03:11.250000Z"}
