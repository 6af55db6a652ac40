"""The grants gate, the scheduling gate and the waits between tries, with a clock that is a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.quorum import Quorum
from fedjob.messaging.messages import Answer
from fedjob.researcher.federation.scheduling_events import (
    Answered,
    Command,
    Event,
    LeaveSlot,
    RetryPolicy,
    Scheduling,
    SchedulingStage,
    SchedulingTick,
    SendOffers,
    SlotTaken,
    TakeSlot,
    Tried,
    Wait,
)
from fedjob.researcher.federation.scheduling_machine import begin, next_wake, step

NODES = ("a", "b", "c")
SILENCE_S = RetryPolicy().silence_s


def answer(status: str = "granted", **fields: Any) -> Answer:
    return Answer(of="x", status=status, **fields)


class Home:
    """Plays the edge: takes slots at once, keeps every command and its time."""

    def __init__(
        self, quorum: Quorum | None = None, nodes: tuple[str, ...] = NODES, pace: RetryPolicy | None = None
    ):
        self.now = 0.0
        self.said: list[Command] = []
        self.present: dict[str, bool] = {}
        self.state: Scheduling
        self.state, commands = begin(0.0, nodes, quorum or Quorum(), pace)
        self._note(commands)

    def _note(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self.said.append(command)
            if isinstance(command, TakeSlot):
                self.feed(SlotTaken(self.now))

    @property
    def gate(self) -> SchedulingStage:
        return self.state.gate

    def at(self, gate: SchedulingStage) -> bool:
        return self.state.gate is gate

    def feed(self, event: Event) -> None:
        self.state, commands = step(self.state, event)
        self._note(commands)

    def answers(self, *nodes: str, status: str = "granted", **fields: Any) -> None:
        for node in nodes:
            self.feed(Answered(self.now, node, answer(status, **fields)))

    def pass_to(self, now: float, **present: bool) -> None:
        self.present |= present
        self.now = now
        self.feed(SchedulingTick(now, dict(self.present)))

    def run_until(self, end: float) -> None:
        """Wake up when something is due, until then."""
        while (due := next_wake(self.state)) is not None and due <= end:
            self.pass_to(max(due, self.now))

    def tries(self) -> list[Tried]:
        return [command for command in self.said if isinstance(command, Tried)]

    def waits(self) -> list[Wait]:
        return [command for command in self.said if isinstance(command, Wait)]


@pytest.fixture
def home() -> Home:
    return Home()


def test_nodes_that_allow_it_and_have_room_are_scheduled_at_the_first_try(home: Home) -> None:
    assert home.said == [SendOffers(NODES, reserve=False)]
    home.answers("a", "b")
    assert home.at(SchedulingStage.GRANTS)
    home.answers("c", status="not-needed")
    assert home.said[1:] == [TakeSlot(), SendOffers(NODES, reserve=True)]
    home.answers(*NODES)
    assert home.gate is SchedulingStage.READY
    assert home.state.included == NODES
    assert home.tries() == [Tried(1, "scheduled", dict.fromkeys(NODES, "ok"), 0.0)]
    assert next_wake(home.state) is None


def test_the_grants_gate_is_open_until_every_owner_has_decided(home: Home) -> None:
    home.answers("a")
    home.answers("b", "c", status="pending")
    home.run_until(50_000)
    assert home.at(SchedulingStage.GRANTS)
    assert home.waits() == [Wait(("b", "c"))]
    home.answers("b", status="rejected", note="no")
    assert home.waits()[-1] == Wait(("c",))
    home.answers("c")
    assert home.said[-1] == SendOffers(("a", "c"), reserve=True)


def test_a_grants_deadline_closes_the_gate_once_the_quorum_is_met() -> None:
    home = Home(Quorum(min_nodes=2, grants_deadline_s=100))
    home.answers("a")
    home.answers("b", "c", status="pending")
    home.pass_to(150)
    assert home.gate is SchedulingStage.GRANTS  # one of two is not enough, deadline or not
    home.answers("b")
    assert home.said[-1] == SendOffers(("a", "b"), reserve=True)
    home.answers("a", "b")
    assert home.state.included == ("a", "b")
    assert home.tries()[-1].nodes["c"] == "undecided"


def test_an_owner_whose_no_breaks_the_quorum_ends_the_job_at_once() -> None:
    home = Home(Quorum(min_nodes=3))
    home.answers("a", status="pending")
    home.answers("b", status="rejected", reason="rejected", note="not before the board met")
    assert home.gate is SchedulingStage.REJECTED
    assert (home.state.reason, home.state.detail) == ("rejected", "b: rejected: not before the board met")


def test_nodes_that_cannot_run_the_plan_make_it_unschedulable_without_more_tries() -> None:
    home = Home(Quorum(required=("b",)))
    home.answers("a", "c")
    home.answers("b", status="unknown", reason="missing_packages", missing=["xgboost"])
    assert home.gate is SchedulingStage.UNSCHEDULABLE
    assert home.state.reason == "missing_packages"
    assert "xgboost" in home.state.detail


@pytest.mark.feature("NV-08")
def test_one_of_three_nodes_offline_runs_and_two_are_unschedulable() -> None:
    home = Home(Quorum(min_nodes=2))
    home.answers("a", "b")
    home.run_until(SILENCE_S)
    home.answers("a", "b")
    home.run_until(2 * SILENCE_S)
    assert home.gate is SchedulingStage.READY
    assert home.state.included == ("a", "b")
    assert home.tries()[-1].nodes["c"] == "offline"
    alone = Home(Quorum(min_nodes=2))
    alone.answers("a")
    while alone.gate not in (SchedulingStage.READY, SchedulingStage.UNSCHEDULABLE):
        alone.answers("a")
        alone.run_until(next_wake(alone.state) or 0)
    assert alone.gate is SchedulingStage.UNSCHEDULABLE
    assert alone.state.reason == "too_few_nodes"


@pytest.mark.feature("NV-09")
def test_a_required_node_that_is_offline_is_waited_for_though_the_minimum_is_met() -> None:
    home = Home(Quorum(required=("c",), min_nodes=2))
    home.answers("a", "b")
    home.run_until(SILENCE_S)
    home.answers("a", "b")
    home.run_until(2 * SILENCE_S)
    assert home.gate is SchedulingStage.SCHEDULING
    assert home.tries()[-1].reason == "required_missing"
    assert home.state.detail == "c: offline"


@pytest.mark.feature("NV-34")
@pytest.mark.parametrize(
    ("fields", "reason", "told"),
    [
        ({"schedule": "resources", "short": ["gpus"]}, "resources", "resources: gpus"),
        ({"schedule": "no_workers"}, "no_workers", "no_workers"),
        ({"schedule": "outside_hours"}, "outside_hours", "outside_hours"),
        ({"schedule": "no_free_worker"}, "scheduled", "ok"),
    ],
)
def test_each_shortage_is_the_reason_of_its_try(fields: dict[str, Any], reason: str, told: str) -> None:
    home = Home(nodes=("a",))
    home.answers("a")
    home.answers("a", **fields)
    (tried,) = home.tries()
    assert (tried.reason, tried.nodes) == (reason, {"a": told})


@pytest.mark.feature("NV-34")
def test_required_nodes_come_first_then_the_minimum_then_resources() -> None:
    reasons = []
    for silent, short in (({"a", "b"}, set()), ({"b"}, {"c"}), (set(), {"b", "c"})):
        home = Home(Quorum(required=("a",), min_nodes=3))
        home.answers(*NODES)
        for node in set(NODES) - silent:
            home.answers(node, schedule="resources" if node in short else "")
        home.run_until(SILENCE_S)
        reasons.append(home.tries()[-1].reason)
    assert reasons == ["required_missing", "too_few_nodes", "resources"]


@pytest.mark.feature("NV-33", "NV-57")
def test_waits_double_from_ten_seconds_to_six_hundred_and_the_tenth_try_is_the_last() -> None:
    home = Home(nodes=("a",))
    home.answers("a")
    while home.gate is SchedulingStage.SCHEDULING:
        home.answers("a", schedule="resources", short=["gpus"])
        home.run_until(next_wake(home.state) or 0)
    assert [tried.wait_s for tried in home.tries()] == [10, 20, 40, 80, 160, 320, 600, 600, 600, 0]
    assert [tried.number for tried in home.tries()] == list(range(1, 11))
    assert home.gate is SchedulingStage.UNSCHEDULABLE
    assert (home.state.reason, home.state.detail) == ("resources", "a: resources: gpus")


@pytest.mark.feature("NV-57")
def test_a_job_that_waits_leaves_its_slot_to_the_next(home: Home) -> None:
    home.answers(*NODES)
    home.answers(*NODES, schedule="no_workers")
    assert isinstance(home.said[-1], LeaveSlot)
    home.run_until(10)
    assert home.said[-2:] == [TakeSlot(), SendOffers(NODES, reserve=True)]


def test_a_node_that_appears_is_tried_at_once_and_the_series_goes_on() -> None:
    home = Home(Quorum(min_nodes=2), nodes=("a", "b"), pace=RetryPolicy(retry_min_s=300))
    home.pass_to(0, a=True, b=False)
    home.answers("a")
    home.run_until(2.5)  # b shows no presence: two seconds of silence are enough
    home.answers("a")
    home.run_until(5)
    assert home.tries()[-1].reason == "too_few_nodes"
    due = home.state.next_try
    home.pass_to(50, b=True)
    assert home.said[-1] == SendOffers(("a", "b"), reserve=True)
    home.answers("a")
    home.answers("b", schedule="resources")
    assert (home.state.tries, home.state.num_tries) == (1, 2)
    assert home.state.next_try == due
    home.pass_to(due or 0)
    home.answers("a", "b")
    assert home.gate is SchedulingStage.READY


def test_a_grant_that_expires_while_queued_leads_back_to_its_owner() -> None:
    home = Home(Quorum(min_nodes=3))
    home.answers(*NODES)
    home.answers("a", "b")
    home.answers("c", status="pending", grant_state="expired", note="it ended yesterday")
    assert home.said[-2:] == [LeaveSlot(), Wait(("c",), "expired", "c: it ended yesterday")]
    assert home.at(SchedulingStage.GRANTS)
    home.answers("c")
    assert home.said[-1] == SendOffers(NODES, reserve=True)


def test_a_grant_that_is_revoked_while_queued_ends_what_needs_it_and_not_what_does_not() -> None:
    for quorum, gate in (
        (Quorum(required=("c",)), SchedulingStage.REJECTED),
        (Quorum(), SchedulingStage.SCHEDULING),
    ):
        home = Home(quorum)
        home.answers(*NODES)
        home.answers("a", "b", schedule="outside_hours")
        home.answers("c", status="rejected", reason="revoked", note="the study is over")
        assert Wait((), "revoked", "c: the study is over") in home.said
        assert home.gate is gate
        assert home.state.lost == {"c": "revoked: the study is over"}


def test_a_node_that_was_away_and_has_to_ask_its_owner_is_waited_for_where_it_is_needed() -> None:
    home = Home(Quorum(min_nodes=2), nodes=("a", "b"))
    home.answers("a")
    home.run_until(SILENCE_S)
    home.answers("a")
    home.answers("b", status="pending")
    assert home.at(SchedulingStage.GRANTS)
    assert home.waits()[-1].nodes == ("b",)


def test_a_decision_on_an_older_offer_does_not_stand_for_the_answer_to_the_newer_one(home: Home) -> None:
    home.answers(*NODES)
    home.feed(Answered(0.0, "a", answer(), current=False))
    assert "a" in home.state.asked


def test_a_plan_that_a_node_cannot_set_up_is_told_with_the_try() -> None:
    home = Home()
    home.answers(*NODES)
    home.answers("a")
    home.answers("b", status="unknown", reason="plan", note="line 3: no Python")
    home.run_until(SILENCE_S)
    assert home.tries()[-1].nodes == {"a": "ok", "b": "plan: line 3: no Python", "c": "offline"}
    assert home.state.included == ("a",)


answers = st.builds(
    answer,
    st.sampled_from(["granted", "not-needed", "pending", "rejected", "unknown"]),
    reason=st.sampled_from(["", "busy", "plan"]),
    schedule=st.sampled_from(["", "no_workers", "resources", "no_free_worker", "odd"]),
)
events = st.one_of(
    st.builds(Answered, st.just(0.0), st.sampled_from([*NODES, "z"]), answers, st.booleans()),
    st.builds(SlotTaken, st.just(0.0)),
    st.builds(SchedulingTick, st.just(0.0), st.dictionaries(st.sampled_from(NODES), st.booleans())),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 60), events), max_size=60),
    st.builds(
        Quorum,
        required=st.lists(st.sampled_from(NODES), max_size=2, unique=True).map(tuple),
        min_nodes=st.integers(1, 3),
        grants_deadline_s=st.none() | st.floats(1, 100),
    ),
)
def test_whatever_comes_it_never_starts_without_grants_and_quorum_and_never_sleeps_for_good(
    schedule: list[tuple[float, Event]], quorum: Quorum
) -> None:
    now = 0.0
    state, commands = begin(now, NODES, quorum)
    slot = False
    for gap, event in schedule:
        now += gap
        state, commands = step(state, replace(event, now=now))
        check(state, quorum, now)
        for command in commands:
            if isinstance(command, LeaveSlot):
                assert slot
                slot = False
        if state.gate is SchedulingStage.SCHEDULING:
            slot = True


def check(state: Scheduling, quorum: Quorum, now: float) -> None:
    if state.gate is SchedulingStage.READY:
        assert len(state.included) >= quorum.min_nodes
        assert set(quorum.required) <= set(state.included)
        assert all(state.answers[node].status in ("granted", "not-needed") for node in state.included)
    elif state.gate in (SchedulingStage.REJECTED, SchedulingStage.UNSCHEDULABLE):
        assert state.reason
    elif state.gate is not SchedulingStage.SLOT:
        assert next_wake(state) is not None
