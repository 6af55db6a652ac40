from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.types import Address
from fedjob.messaging.courier import (
    FIRST_RESEND_S,
    RESEND_CAP_S,
    Arrived,
    Command,
    ConnectionChange,
    CourierState,
    Deliver,
    Delivered,
    Event,
    GiveUp,
    Letter,
    Post,
    Receipted,
    Repeated,
    SendReceipt,
    Settled,
    Tick,
    Transmit,
    Withdraw,
    next_wake,
    step,
)

SITE = Address("site")
ALICE = Address("alice", "s1")


def arrived(id_: str, now: float = 0.0, *, reliable: bool = True, known: bool = False) -> Arrived:
    return Arrived(now, f"alice/{id_}", id_, ALICE, now + 100, reliable, known)


def run(state: CourierState, *events: Event) -> list[Command]:
    return [command for event in events for command in step(state, event)[1]]


def test_a_letter_is_resent_at_doubling_intervals_up_to_a_minute_until_it_expires() -> None:
    state = CourierState(seed=1)
    assert run(state, Post(0.0, Letter("m", SITE, 1000.0))) == [Transmit("m")]
    gaps, last = [], 0.0
    while (due := next_wake(state)) is not None:
        commands = run(state, Tick(due))
        gaps.append(due - last)
        last = due
    assert commands == [GiveUp("m")]
    assert last == 1000.0
    for number, gap in enumerate(gaps[:-1]):
        full = min(RESEND_CAP_S, FIRST_RESEND_S * 2**number)
        assert 0.75 * full - 1e-9 <= gap <= full + 1e-9
    assert max(gaps) > 45


def test_parties_with_different_seeds_do_not_resend_in_step() -> None:
    wakes = set()
    for seed in range(20):
        state = CourierState(seed=seed)
        run(state, Post(0.0, Letter("m", SITE, 1000.0)))
        wakes.add(next_wake(state))
    assert len(wakes) == 20


def test_a_receipt_of_its_addressee_ends_the_resending() -> None:
    state = CourierState()
    run(state, Post(0.0, Letter("m", SITE, 1000.0)))
    assert run(state, Receipted("another", ("m",))) == []
    assert run(state, Receipted("site", ("m", "unknown"))) == [Delivered("m")]
    assert run(state, Receipted("site", ("m",)), Tick(500.0)) == []
    assert next_wake(state) is None


def test_nothing_is_sent_without_a_connection_and_all_at_once_when_it_is_back() -> None:
    state = CourierState(up=False)
    assert (
        run(state, Post(0.0, Letter("a", SITE, 1000.0)), Post(0.0, Letter("b", SITE, 5.0)), Tick(1.0)) == []
    )
    assert run(state, Tick(6.0)) == [GiveUp("b")]
    assert run(state, ConnectionChange(7.0, True)) == [Transmit("a")]
    assert run(state, ConnectionChange(8.0, False), Tick(20.0)) == []
    assert run(state, ConnectionChange(21.0, True)) == [Transmit("a")]


def test_what_needs_no_receipt_is_sent_once_and_forgotten() -> None:
    state = CourierState()
    assert run(state, Post(0.0, Letter("p", None, 60.0, reliable=False))) == [Transmit("p")]
    assert next_wake(state) is None


def test_posting_again_and_withdrawing() -> None:
    state = CourierState()
    run(state, Post(0.0, Letter("m", SITE, 1000.0)))
    assert run(state, Post(0.1, Letter("m", SITE, 1000.0))) == []
    assert run(state, Withdraw(("m", "x")), Tick(99.0)) == []
    assert run(state, Post(5.0, Letter("late", SITE, 5.0))) == [GiveUp("late")]


def test_a_receipt_goes_out_only_after_the_owner_settled() -> None:
    state = CourierState()
    assert run(state, arrived("m")) == [Deliver("alice/m")]
    assert run(state, arrived("m")) == [Repeated("alice/m")]
    assert run(state, Settled(("alice/m",))) == [SendReceipt(ALICE, "m")]
    assert run(state, Settled(("alice/m", "unknown"))) == []
    assert run(state, arrived("m")) == [Repeated("alice/m"), SendReceipt(ALICE, "m")]


def test_what_the_store_remembers_is_receipted_and_not_delivered() -> None:
    assert run(CourierState(), arrived("m", known=True)) == [Repeated("alice/m"), SendReceipt(ALICE, "m")]


def test_what_is_not_receipted_is_still_taken_only_once() -> None:
    state = CourierState()
    assert run(state, arrived("e", reliable=False)) == [Deliver("alice/e")]
    assert run(state, arrived("e", reliable=False)) == [Repeated("alice/e")]
    assert run(state, Settled(("alice/e",))) == []


def test_the_memory_of_ids_is_bounded_in_time_and_in_number() -> None:
    state = CourierState(limit=100)
    for number in range(1000):
        run(state, arrived(f"m{number}"), Settled((f"alice/m{number}",)))
    assert len(state.taken) <= 101
    for number in range(1000, 1200):
        run(state, arrived(f"m{number}", now=500.0), Settled((f"alice/m{number}",)))
    assert "alice/m999" not in state.taken


def test_what_is_in_the_owners_hands_is_not_forgotten() -> None:
    state = CourierState(limit=10)
    run(state, arrived("held"))
    for number in range(15):
        run(state, arrived(f"m{number}"), Settled((f"alice/m{number}",)))
    assert run(state, Settled(("alice/held",))) == [SendReceipt(ALICE, "held")]


@pytest.mark.parametrize("seed", range(3))
def test_dates_of_receipted_letters_do_not_pile_up(seed: int) -> None:
    state = CourierState(seed=seed)
    for number in range(20_000):
        run(state, Post(0.0, Letter(str(number), SITE, 1e6)), Receipted("site", (str(number),)))
    assert len(state._due) < 2000


IDS = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(
    st.one_of(
        st.builds(lambda i, r: ("post", i, r), IDS, st.booleans()),
        st.builds(lambda i: ("arrive", i), IDS),
        st.builds(lambda i: ("settle", i), IDS),
        st.builds(lambda i: ("receipt", i), IDS),
        st.builds(lambda i: ("withdraw", i), IDS),
        st.builds(lambda u: ("connection", u), st.booleans()),
        st.builds(lambda s: ("wait", s), st.floats(0, 50)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(EVENTS)
def test_whatever_happens_each_message_is_delivered_once_and_each_letter_ends_once(
    script: list[tuple[object, ...]],
) -> None:
    state, now = CourierState(), 0.0
    delivered: list[str] = []
    settled: set[str] = set()
    travelling: set[str] = set()
    for what, *args in script:
        argument = args[0]
        match what:
            case "wait":
                assert isinstance(argument, float)
                now += argument
                event: Event = Tick(now)
            case "post":
                event = Post(now, Letter(str(argument), SITE, now + 30, bool(args[1])))
            case "arrive":
                event = Arrived(now, f"alice/{argument}", str(argument), ALICE, now + 1e6, True)
            case "settle":
                event = Settled((f"alice/{argument}",))
            case "receipt":
                event = Receipted("site", (str(argument),))
            case "withdraw":
                event = Withdraw((str(argument),))
            case _:
                event = ConnectionChange(now, bool(argument))
        state, commands = step(state, event)
        for command in commands:
            match command:
                case Deliver(key):
                    delivered.append(key)
                case SendReceipt(_, id_):
                    assert f"alice/{id_}" in settled or what == "settle"
                case Transmit(_):
                    assert state.up
                case Delivered(id_) | GiveUp(id_):
                    assert id_ in travelling or what == "post"
        if what == "settle" and f"alice/{argument}" in delivered:
            settled.add(f"alice/{argument}")
        travelling = set(state.travelling)
        assert (next_wake(state) is None) == (not travelling)
    assert len(delivered) == len(set(delivered))
