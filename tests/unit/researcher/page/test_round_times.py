"""The times of a round: stages of each node add up to the round, whatever clocks and figures nodes have."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.researcher.page.round_times import STAGES, RoundTimes, round_times, totals
from fedjob.researcher.storage.event import JobEvent


def ask(at: float, *nodes: str, round_: int = 1, step: str = "train") -> JobEvent:
    return JobEvent(type="ask", time=at, round=round_, body={"step": step, "nodes": list(nodes)})


def task(at: float, node: str, state: str, round_: int = 1, **body: Any) -> JobEvent:
    return JobEvent(type="state", time=at, node=node, task=node, round=round_, body={"state": state, **body})


def done(at: float, round_: int = 1) -> JobEvent:
    return JobEvent(type="round", time=at, round=round_, body={"seconds": at})


TWO = [
    ask(100.0, "a", "b"),
    task(101.0, "a", "running"),
    task(104.0, "a", "completed"),
    task(109.0, "b", "completed"),
    done(110.0),
]
FIGURES = {
    1: {
        "train": {
            "a": {"queued": 0.5, "fetch": 0.5, "total": 2.0},
            "b": {"queued": 1.0, "fetch": 1.0, "total": 6.5},
        }
    }
}


def test_every_stage_of_a_round_is_known_node_by_node() -> None:
    (found,) = round_times(TWO, FIGURES, now=500.0)
    a, b = found.nodes
    assert a.seconds == {
        "queue": 0.5,
        "fetch": 0.5,
        "compute": 2.0,
        "upload": 1.0,
        "wait": 5.0,
        "aggregate": 1.0,
    }
    assert b.seconds == {"queue": 1.0, "fetch": 1.0, "compute": 6.5, "upload": 0.5, "aggregate": 1.0}
    assert (found.seconds, found.is_open, found.slowest) == (10.0, False, "b")
    assert totals([found, found])["a"]["wait"] == 10.0


ODD: dict[str, tuple[list[JobEvent], Any]] = {
    "no figures, as under differential privacy": (TWO, {}),
    "a clock that runs fast": (TWO, {1: {"train": {"a": {"queued": 50.0, "total": 900.0}}}}),
    "figures that are none": (TWO, {1: {"train": {"a": {"queued": -5.0, "fetch": float("nan"), "total": "x"}}}}),
    "a node that never answered": ([*TWO[:3], done(110.0)], FIGURES),
    "an answer after the commit": ([*TWO[:3], done(108.0), TWO[3]], FIGURES),
    "clocks that went back": ([ask(100.0, "a", "b"), task(99.0, "a", "completed"), done(98.0)], FIGURES),
    "several questions": (
        [ask(90.0, "a", "b", step="keys"), task(92.0, "a", "completed"), task(93.0, "b", "completed"), *TWO], FIGURES,
    ),
    "nodes that are no list": ([JobEvent(type="ask", time=1.0, round=1, body={"nodes": 3}), done(2.0)], {}),
    "no body": ([JobEvent(type="ask", time=1.0, round=1), JobEvent(type="state", node="a", round=1, time=2.0)], {}),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_stages_are_never_negative_and_add_up_to_the_round(what: str) -> None:
    events, figures = ODD[what]
    (found,) = round_times(events, figures, now=120.0)
    for node in found.nodes:
        assert set(node.seconds) <= set(STAGES)
        assert all(seconds >= 0 for seconds in node.seconds.values())
        assert node.total_s == pytest.approx(found.seconds, abs=1.01)


@pytest.mark.parametrize(
    ("state", "stage"),
    [("queued", "queue"), ("waiting", "queue"), ("starting", "fetch"), ("running", "compute")],
)
def test_a_node_that_has_not_answered_shows_what_it_is_at(state: str, stage: str) -> None:
    (found,) = round_times([ask(100.0, "a", "b"), task(101.0, "a", state)], {}, now=107.0)
    assert found.is_open
    assert found.nodes[0].seconds == {stage: 7.0}
    assert found.nodes[1].seconds == {"queue": 7.0}, "nothing was heard of it"
    assert all(node.is_open for node in found.nodes)


def test_who_has_answered_waits_for_the_others() -> None:
    (found,) = round_times([ask(100.0, "a", "b"), task(103.0, "a", "completed")], {}, now=107.0)
    assert found.nodes[0].seconds == {"compute": 3.0, "wait": 4.0}
    assert not found.nodes[0].is_open


def test_a_further_attempt_at_a_round_replaces_it_and_rounds_before_the_tail_are_left_out() -> None:
    again = [ask(200.0, "a"), task(201.0, "a", "completed"), done(202.0)]
    found = round_times([task(1.0, "a", "completed", round_=7), *TWO, *again], {}, now=300.0)
    assert [(one.round, one.seconds) for one in found] == [(1, 2.0)]
    assert isinstance(found[0], RoundTimes)
