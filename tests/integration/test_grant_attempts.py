"""More than two hundred attempts to have a node do other than its owner approved: none runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.grant_attempts import BASES, SAME, Attempt, Desk, attempts

ALL = attempts()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.database.close()


def test_there_are_more_than_two_hundred_attempts() -> None:
    assert len(ALL) > 300


@pytest.mark.parametrize("attempt", ALL, ids=lambda one: f"{one.kind}-{one.name}")
def test_an_attempt_to_do_other_than_was_approved_does_not_run(desk: Desk, attempt: Attempt) -> None:
    verdict = desk.tried(attempt)
    assert not verdict.allowed
    assert verdict.refusal[0]


@pytest.mark.parametrize("name", list(SAME))
def test_the_same_question_runs_again(desk: Desk, name: str) -> None:
    base, change, round_, step = SAME[name]
    verdict = desk.tried(Attempt("same", name, base, change, round=round_, step=step))
    assert verdict.allowed, verdict.refusal


def test_another_question_says_in_what_it_differs(desk: Desk) -> None:
    attempt = next(one for one in ALL if one.name == "column 'ssn'" and one.kind == "argument")
    reason, detail = desk.tried(attempt).refusal
    assert reason == "plan_not_approved"
    assert "it is not what its owner approved, who has to be asked anew" in detail
    assert "training_args.column is 'ssn', approved was 'age'" in detail


def test_every_approval_is_attempted_on() -> None:
    assert {one.base for one in ALL} == set(BASES)
