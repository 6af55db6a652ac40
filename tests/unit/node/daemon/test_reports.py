"""What the daemon's loop is told between its turns: taken in order, and some of it begins no turn."""

from __future__ import annotations

from fedjob.node.daemon.turn import SOON_S, Reports


def test_what_is_put_begins_a_turn_and_what_is_put_soon_waits_for_one() -> None:
    now, woken = 10.0, []
    reports: Reports[str] = Reports(lambda: woken.append(now), lambda: now)
    assert (reports.next_due(), reports.take()) == (None, [])
    reports.put_soon("began")
    now = 10.01
    reports.put_soon("began too")
    assert (reports.next_due(), woken) == (10.0 + SOON_S, [])
    reports.put("returned")
    assert woken == [10.01]
    assert reports.take() == ["began", "began too", "returned"], "a worker begins before it returns"
    assert (reports.next_due(), reports.take()) == (None, [])
    reports.put_soon("another")
    assert reports.next_due() == 10.01 + SOON_S
