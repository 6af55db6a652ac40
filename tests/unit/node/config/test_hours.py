from __future__ import annotations

import pytest

from fedjob.common.errors import ConfigError
from fedjob.node.config.hours import read_hours

MON, FRI, SAT, SUN = 0, 4, 5, 6


def open_at(text: str, weekday: int, clock: str) -> bool:
    hour, minute = map(int, clock.split(":"))
    return read_hours(text).are_open(weekday, 60 * hour + minute)


def test_no_text_is_always_open() -> None:
    assert open_at("", SUN, "03:00")


@pytest.mark.parametrize(
    ("weekday", "clock", "expected"),
    [
        (MON, "19:59", False),
        (MON, "20:00", True),
        (MON, "05:59", False),  # it began on no Sunday
        (FRI, "23:59", True),
        (SAT, "05:59", True),  # it began on Friday
        (SAT, "06:00", False),
        (SUN, "12:00", False),
    ],
)
def test_a_window_over_midnight_goes_on_until_the_next_morning(
    weekday: int, clock: str, expected: bool
) -> None:
    assert open_at("Mon-Fri 20:00-06:00", weekday, clock) is expected


def test_several_windows_and_days_that_wrap() -> None:
    text = "Sat-Mon 00:00-24:00, 12:00-13:00"
    assert all(open_at(text, day, "03:00") for day in (SAT, SUN, MON))
    assert open_at(text, FRI, "12:30")
    assert not open_at(text, FRI, "13:00")


@pytest.mark.parametrize("text", ["always", "Mon 9-17", "Mon 25:00-26:00", "Foo 09:00-17:00", "10:00-10:00"])
def test_what_is_no_window_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="hours"):
        read_hours(text)
