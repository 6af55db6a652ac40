from __future__ import annotations

from fedjob.messaging.transport.echo import AGAIN_S, DEAF_S, EVERY_S, EchoWatch


def answered(watch: EchoWatch, now: float) -> None:
    assert watch.take_due(now)
    watch.came_back(now)


def test_an_echo_is_sent_at_once_and_then_now_and_then_while_it_comes_back() -> None:
    watch = EchoWatch()
    assert not watch.take_due(0.0)
    watch.connected(0.0)
    answered(watch, 0.0)
    assert not watch.take_due(EVERY_S - 1)
    answered(watch, EVERY_S)
    assert EVERY_S < 60  # boxes on the way forget what is idle for a minute


def test_a_single_lost_echo_is_made_up_for_and_many_are_a_connection_that_carries_nothing() -> None:
    watch = EchoWatch()
    watch.connected(0.0)
    answered(watch, 0.0)
    assert watch.take_due(EVERY_S)
    answered(watch, EVERY_S + AGAIN_S)
    late = 2 * EVERY_S + AGAIN_S
    assert watch.take_due(late)
    assert not watch.is_deaf(late + DEAF_S - 1)
    assert watch.take_due(late + AGAIN_S)
    assert watch.is_deaf(late + DEAF_S)


def test_a_new_connection_is_not_blamed_for_the_one_before() -> None:
    watch = EchoWatch()
    watch.connected(0.0)
    answered(watch, 0.0)
    assert watch.take_due(EVERY_S)
    watch.lost()
    assert not watch.take_due(1000.0)
    assert not watch.is_deaf(1000.0)
    watch.connected(1000.0)
    assert watch.take_due(1000.0)
    assert not watch.is_deaf(1000.0)


def test_a_broker_that_never_returned_one_is_left_in_peace() -> None:
    watch = EchoWatch()
    watch.connected(0.0)
    assert watch.take_due(0.0)
    assert not watch.is_deaf(10 * DEAF_S)
