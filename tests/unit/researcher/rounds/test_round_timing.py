"""When the next round of a job begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedjob.aggregation.contribution import Contribution
from fedjob.common.errors import JobStopped, QuorumNotReached, SpecError
from fedjob.common.types import ENDLESS, rounds_text
from fedjob.protocols.base import Ask, Gathered
from fedjob.protocols.step_inputs import TURN
from fedjob.researcher.rounds.round_timing import RoundTimer
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.spec import checked_rounds, checked_seconds


class Turns:
    """A gatherer that has nothing new for so many turns, and a clock that only rests."""

    def __init__(self, *empty: str) -> None:
        self.empty = list(empty)
        self.asked: list[Ask] = []
        self.rested: list[float] = []
        self.notes: list[str] = []
        self.stopped = False

    def pace(self, every_s: float | None) -> RoundTimer:
        return RoundTimer(every_s, self.rest, lambda: self.stopped, self.notes.append)

    def rest(self, seconds: float) -> None:
        self.rested.append(seconds)

    def gather(self, ask: Ask, position: Position) -> tuple[Gathered, Position]:
        self.asked.append(ask)
        if self.empty:
            reason = self.empty.pop(0)
            raise QuorumNotReached("nobody", left_out={"a": reason, "b": "no_new_data: all 3 items"})
        return Gathered(total=Contribution(), replies={}, left_out={}), position


AT_FIRST = Position(state={})


def test_without_a_pace_rounds_follow_one_another() -> None:
    turns = Turns("no_new_data")
    with pytest.raises(QuorumNotReached):
        turns.pace(None).gather(turns.gather, Ask(), AT_FIRST)
    turns.pace(None).gather(turns.gather, Ask(), AT_FIRST)
    assert (len(turns.asked), turns.rested) == (2, [])


def test_a_round_without_anything_new_is_asked_for_again_as_other_work() -> None:
    turns = Turns("no_new_data", "min_rows: computed on fewer rows than the owner's minimum of 5")
    turns.pace(0.001).gather(turns.gather, Ask(shared={"x": 1}), AT_FIRST)
    assert [dict(ask.shared) for ask in turns.asked] == [{"x": 1}, {"x": 1, TURN: 1}, {"x": 1, TURN: 2}]
    assert turns.notes == ["no node has enough that is new; looking again every 0.001 s"]


def test_other_trouble_ends_a_paced_job_too() -> None:
    turns = Turns("no_new_data", "exception: at plan line 3")
    with pytest.raises(QuorumNotReached):
        turns.pace(0.001).gather(turns.gather, Ask(), AT_FIRST)
    assert len(turns.asked) == 2


def test_a_later_ask_of_a_round_is_not_waited_for_and_the_next_round_is() -> None:
    turns = Turns()
    pace = turns.pace(60.0)
    for position in (AT_FIRST, AT_FIRST):
        pace.gather(turns.gather, Ask(), position)
    assert turns.rested == []
    turns.stopped = True
    with pytest.raises(JobStopped) as caught:
        pace.gather(turns.gather, Ask(), Position(state={}, round=1))
    assert caught.value.verb == "stop"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (checked_rounds, 0),
        (checked_rounds, 1.5),
        (lambda value: checked_seconds("every_s", value), 0),
        (lambda value: checked_seconds("every_s", value), "60"),
    ],
    ids=["no rounds", "half rounds", "no time", "text"],
)
def test_odd_rounds_and_times_are_refused(check: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(SpecError):
        check(value)


def test_no_rounds_are_no_end() -> None:
    assert checked_rounds(None) == ENDLESS
    assert (rounds_text(ENDLESS), rounds_text(3)) == ("no end", "3")
