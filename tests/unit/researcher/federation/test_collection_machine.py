from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.quorum import Quorum
from fedjob.researcher.federation.collection_machine import (
    AWAY_S,
    LEASE_S,
    NUM_LEASES_OF_NEEDED,
    AskFinished,
    AskOverdue,
    CollectionTick,
    ContributionKept,
    Event,
    Impossible,
    KeepContribution,
    Listed,
    NodeFailed,
    Note,
    Open,
    ReplyArrived,
    RoundState,
    SignOfLife,
    begin,
    next_wake,
    outcome,
    step,
)

KEYS = {"a": "ka", "b": "kb", "c": "kc"}


def after(state: RoundState, *events: Event) -> RoundState:
    for event in events:
        state, _ = step(state, event)
    return state


def reply(node: str, now: float = 1.0, **changes: object) -> ReplyArrived:
    return ReplyArrived(now, node, str(changes.pop("key", f"k{node}")), f"m-{node}", **changes)  # type: ignore[arg-type]


def included(*nodes: str, now: float = 1.0) -> list[Event]:
    return [event for node in nodes for event in (reply(node, now), ContributionKept(now, node))]


def test_an_ask_is_finished_when_all_are_in_whatever_their_order() -> None:
    state = begin(0.0, KEYS, Quorum())
    state, commands = step(state, reply("c"))
    assert commands == [KeepContribution("c", "m-c")]
    assert state.pending == ["a", "b", "c"]
    state = after(state, ContributionKept(1.0, "c"), *included("b"))
    assert outcome(state) == Open()
    state = after(state, *included("a"))
    assert outcome(state) == AskFinished(("a", "b", "c"), {})
    assert next_wake(state) is None


def test_a_round_that_takes_too_long_is_overdue_whoever_has_answered() -> None:
    state = begin(0.0, KEYS, Quorum(), ends_at=30.0)
    state = after(state, *included("a"), CollectionTick(29.0))
    assert outcome(state) == Open()
    assert next_wake(state) == 30.0
    late = after(state, CollectionTick(30.0), reply("b", 31.0))
    assert outcome(late) == AskOverdue(("a",), {"b": "timeout", "c": "timeout"})
    assert next_wake(late) is None
    in_time = after(state, *included("b", "c"), CollectionTick(30.0))
    assert outcome(in_time) == AskFinished(("a", "b", "c"), {})


def test_a_reply_that_does_not_count_is_listed_with_its_reason() -> None:
    state = after(begin(0.0, KEYS, Quorum()), *included("a"))
    listed = []
    for event in (reply("z"), reply("b", key="other"), reply("a"), reply("b"), reply("b")):
        state, commands = step(state, event)
        listed += [c.listed for c in commands if isinstance(c, Note)]
    assert listed == [
        Listed("z", "m-z", "foreign"),
        Listed("b", "m-b", "wrong_key"),
        Listed("a", "m-a", "duplicate"),
        Listed("b", "m-b", "duplicate"),
    ]
    assert state.listed == tuple(listed)
    state = after(state, ContributionKept(2.0, "b"), *included("c"))
    _, commands = step(after(begin(0.0, KEYS, Quorum()), NodeFailed(0.0, "a", "x")), reply("a"))
    assert commands == [Note(Listed("a", "m-a", "late"))]


def test_failures_are_left_out_by_name_and_reason() -> None:
    state = after(
        begin(0.0, KEYS, Quorum(min_nodes=2)), reply("a", ok=False, reason="exception"), *included("b", "c")
    )
    assert outcome(state) == AskFinished(("b", "c"), {"a": "exception"})
    state = after(begin(0.0, KEYS, Quorum(required=("a",))), reply("a", ok=False))
    assert outcome(state) == Impossible((), {"a": "failed", "b": "quorum_lost", "c": "quorum_lost"})


def test_a_contribution_that_cannot_be_had_does_not_count() -> None:
    state = after(
        begin(0.0, KEYS, Quorum()),
        reply("a"),
        NodeFailed(2.0, "a", "object_corrupt"),
        ContributionKept(3.0, "a"),
    )
    assert state.left_out == {"a": "object_corrupt"}
    assert state.included == ()


def test_silence_for_a_lease_leaves_a_node_out_and_signs_of_life_renew_it() -> None:
    state = begin(0.0, KEYS, Quorum(), lease_s=60.0)
    assert next_wake(state) == 60.0
    state = after(
        state, SignOfLife(50.0, "a"), SignOfLife(40.0, "b"), SignOfLife(99.0, "nobody"), CollectionTick(60.0)
    )
    assert state.left_out == {"c": "silent"}
    assert next_wake(state) == 100.0
    state = after(state, *included("a", "b", now=90.0))
    assert outcome(state) == AskFinished(("a", "b"), {"c": "silent"})


def test_a_silent_node_that_the_quorum_needs_is_waited_for_through_an_outage_of_its_line() -> None:
    for quorum in (Quorum(required=["c"]), Quorum(required="all"), Quorum(min_nodes=3)):
        state = after(begin(0.0, KEYS, quorum), *included("a", "b"), CollectionTick(400.0))
        assert state.silent_but_needed(400.0) == ("c",)
        assert outcome(state) == Open()
        assert next_wake(state) == NUM_LEASES_OF_NEEDED * LEASE_S
        answered = after(state, *included("c", now=500.0))
        assert outcome(answered) == AskFinished(("a", "b", "c"), {})
        gone = after(state, CollectionTick(NUM_LEASES_OF_NEEDED * LEASE_S))
        assert outcome(gone) == Impossible(("a", "b"), {"c": "silent"})


def test_of_nodes_that_are_silent_together_as_many_are_waited_for_as_the_quorum_needs() -> None:
    state = after(begin(0.0, KEYS, Quorum()), CollectionTick(LEASE_S))
    assert state.left_out == {"a": "silent", "b": "silent"}
    assert state.silent_but_needed(LEASE_S) == ("c",)
    assert outcome(state) == Open()


def test_a_node_that_was_silent_before_is_waited_for_briefly_and_fully_once_it_gives_a_sign() -> None:
    state = begin(0.0, KEYS, Quorum(), away=["b", "c", "elsewhere"])
    assert next_wake(state) == AWAY_S
    state = after(state, *included("a"), SignOfLife(2.0, "c"), CollectionTick(AWAY_S))
    assert state.left_out == {"b": "silent"}
    assert state.pending == ["c"]
    assert next_wake(state) == 2.0 + LEASE_S
    state = after(state, *included("c", now=30.0))
    assert outcome(state) == AskFinished(("a", "c"), {"b": "silent"})
    assert state.unseen == {"b"}


def test_a_node_that_answers_although_it_was_away_is_away_no_more() -> None:
    state = after(begin(0.0, KEYS, Quorum(), away=["b"]), *included("a", "b", "c"))
    assert outcome(state) == AskFinished(("a", "b", "c"), {})
    assert state.away == frozenset()
    assert state.unseen == frozenset()


def test_who_gave_a_sign_before_the_deadline_is_not_taken_to_be_away() -> None:
    state = begin(0.0, KEYS, Quorum(deadline_s=12.0))
    state = after(state, *included("a"), SignOfLife(3.0, "b"), CollectionTick(12.0))
    assert outcome(state) == AskFinished(("a",), {"b": "deadline", "c": "deadline"})
    assert state.unseen == {"c"}


def test_a_busy_caller_does_not_take_its_own_delay_for_silence() -> None:
    state = begin(0.0, KEYS, Quorum(), lease_s=60.0)
    state = after(state, *[SignOfLife(500.0, node) for node in KEYS], CollectionTick(500.0))
    assert state.left_out == {}


def test_a_node_whose_reply_is_being_collected_is_not_silent() -> None:
    state = after(
        begin(0.0, {"a": "ka"}, Quorum(), lease_s=60.0),
        reply("a"),
        CollectionTick(1000.0),
        ContributionKept(1000.0, "a"),
    )
    assert outcome(state) == AskFinished(("a",), {})


def test_without_leases_and_deadline_time_alone_changes_nothing() -> None:
    state = begin(0.0, KEYS, Quorum(), lease_s=None)
    assert next_wake(state) is None
    assert outcome(after(state, CollectionTick(1e9))) == Open()


def test_the_deadline_ends_the_ask_with_those_who_are_enough() -> None:
    state = after(begin(0.0, KEYS, Quorum(min_nodes=2, deadline_s=30.0)), *included("a", "b"))
    assert next_wake(state) == 30.0
    assert outcome(after(state, CollectionTick(29.0))) == Open()
    assert outcome(after(state, CollectionTick(30.0))) == AskFinished(("a", "b"), {"c": "deadline"})


def test_the_deadline_with_too_few_is_the_end() -> None:
    state = after(
        begin(0.0, KEYS, Quorum(min_nodes=2, deadline_s=30.0)), *included("a"), CollectionTick(30.0)
    )
    assert outcome(state) == Impossible(("a",), {"b": "quorum_lost", "c": "quorum_lost"})


def test_what_arrived_before_the_deadline_is_still_collected_after_it() -> None:
    state = after(
        begin(0.0, KEYS, Quorum(min_nodes=2, deadline_s=30.0)),
        *included("a"),
        reply("b"),
        CollectionTick(30.0),
    )
    assert outcome(state) == Open()
    state, commands = step(state, reply("c", 31.0))
    assert commands == [Note(Listed("c", "m-c", "late"))]
    assert outcome(after(state, ContributionKept(32.0, "b"))) == AskFinished(("a", "b"), {"c": "deadline"})


def test_a_buffered_ask_ends_with_k_nodes() -> None:
    state = after(begin(0.0, KEYS, Quorum(), enough=2), *included("c"))
    assert outcome(state) == Open()
    state = after(state, *included("a"))
    assert outcome(state) == AskFinished(("a", "c"), {"b": "not_needed"})
    _, commands = step(state, reply("b"))
    assert commands == [Note(Listed("b", "m-b", "late"))]


def test_a_buffered_ask_waits_for_required_nodes() -> None:
    state = after(begin(0.0, KEYS, Quorum(required=("b",)), enough=2), *included("a", "c"))
    assert outcome(state) == Open()
    assert outcome(after(state, *included("b"))) == AskFinished(("a", "b", "c"), {})


NODES = st.sampled_from(["a", "b", "c", "z"])
TIMES = st.floats(0, 100)
EVENTS = st.one_of(
    st.builds(
        lambda t, n, good, ok, m: ReplyArrived(t, n, f"k{n}" if good else "x", m, ok),
        TIMES, NODES, st.booleans(), st.booleans(), st.uuids().map(str),
    ),
    st.builds(ContributionKept, TIMES, NODES),
    st.builds(NodeFailed, TIMES, NODES, st.sampled_from(["", "guard"])),
    st.builds(SignOfLife, TIMES, NODES),
    st.builds(CollectionTick, TIMES),
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.lists(EVENTS, max_size=40),
    st.builds(Quorum, min_nodes=st.integers(1, 3), deadline_s=st.sampled_from([None, 20.0])),
    st.sampled_from([None, 1, 2]),
)
def test_it_is_total_and_every_reply_is_collected_or_listed(
    events: list[Event], quorum: Quorum, enough: int | None
) -> None:
    state = begin(0.0, KEYS, quorum, enough=enough)
    final = None
    for event in events:
        before = state
        state, commands = step(state, event)
        assert step(before, event) == (state, commands), "not a function of state and event"
        if isinstance(event, ReplyArrived):
            taken = len(commands) == 1 or (not event.ok and event.node in state.left_out)
            assert taken, "a reply was dropped in silence"
        now = outcome(state)
        if final is not None:
            assert now == final, "an outcome was taken back"
        if not isinstance(now, Open):
            final = now
            assert set(now.included) | set(now.left_out) == set(KEYS)
            assert not set(now.included) & set(now.left_out)
    assert len(set(state.included)) == len(state.included)
