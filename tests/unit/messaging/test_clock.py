"""The comparison of clocks: how wrong, which way, and what follows from it."""

from __future__ import annotations

import pytest

from fedjob.messaging.clock import clock_text, hub_ahead_s, misdated_text


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(900.0, "900 s slow"), (-3600.0, "3600 s fast"), (45.0, "45 s slow")]
)
def test_a_wrong_clock_is_said_with_the_seconds_and_the_direction(ahead_s: float, said: str) -> None:
    assert f"this machine's clock is {said}, compared with the hub's" in clock_text(ahead_s)
    assert "NTP" in clock_text(ahead_s)


def test_messages_are_dropped_from_five_minutes_on_and_not_before() -> None:
    assert "are dropped as expired" in clock_text(301.0)
    assert "from 300 s on messages are dropped" in clock_text(299.0)


@pytest.mark.parametrize("ahead_s", [None, 0.0, 29.0, -29.0])
def test_a_right_clock_is_not_spoken_of(ahead_s: float | None) -> None:
    assert clock_text(ahead_s) == ""


def test_a_slow_answer_of_the_hub_is_no_wrong_clock() -> None:
    assert hub_ahead_s(150.0, asked=100.0, answered=190.0) == 0.0
    assert hub_ahead_s(1000.0, asked=100.0, answered=101.0) == 899.0
    assert hub_ahead_s(40.0, asked=100.0, answered=190.0) == -60.0
    assert hub_ahead_s(0.0, asked=100.0, answered=101.0) is None


def test_a_party_whose_messages_are_dated_wrongly_is_told_by_how_much() -> None:
    assert "dated 900 s in the past" in misdated_text(-900.2)
    assert "dated 600 s in the future" in misdated_text(600.0)
