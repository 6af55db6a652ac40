"""What a node reads out of an offer or a task, before anybody is asked about it: numbers that make no sense go no further."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.types import ENDLESS, MAX_SIZE_BYTES, Ref
from fedjob.messaging.messages import Offer, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.contract import Request
from fedjob.node.grants.grant import Question
from fedjob.node.grants.policy import Permission
from fedjob.node.grants.question import question_of
from fedjob.node.storage.burden import Burden
from fedjob.node.storage.costs import MeasuredTime

WORK: dict[str, Any] = {"dataset": "", "protocol": "fedavg", "plan": Ref("0" * 64, 100), "entry": "Net"}


def read(wanted: Offer | Task) -> Question | Permission:
    return question_of(
        wanted,
        job="job_1",
        round_=1,
        step="train",
        researcher="ann",
        key_hex="ab" * 32,
        dataset=None,
        version="",
        config=NodeConfig(approval="on"),
    )


@pytest.mark.parametrize("rounds", [0, -1, -(2**62), ENDLESS + 1, 2**62])
@pytest.mark.parametrize("kind", [Offer, Task])
def test_work_of_no_rounds_or_of_more_than_there_can_be_is_refused(kind: Any, rounds: int) -> None:
    found = read(kind(**WORK, rounds=rounds))
    assert isinstance(found, Permission)
    assert (found.status, found.reason) == ("unknown", "spec")
    assert f"found {rounds}" in found.detail


@pytest.mark.parametrize("rounds", [1, 2, ENDLESS])
def test_work_of_one_round_to_no_end_is_asked_about_and_its_cost_can_be_said(rounds: int) -> None:
    found = read(
        Offer(**WORK, rounds=rounds, cost={"down": 10, "up": MAX_SIZE_BYTES, "memory": 0, "most": 1})
    )
    assert isinstance(found, Question)
    time = MeasuredTime(round_s=1.0, rounds=1, same=True)
    burden = Burden(claimed=found.asked.claimed, rounds=found.asked.rounds, time=time, moved=None)
    assert dict(burden.lines())["moves"].startswith("at most 10 B in")


@pytest.mark.parametrize(
    "cost", [{"down": -1}, {"up": MAX_SIZE_BYTES + 1}, {"<script>": 1}, {"most": 2**62}, {"memory": -(2**62)}]
)
def test_a_cost_that_is_no_number_of_bytes_or_of_another_name_is_refused(cost: dict[str, int]) -> None:
    found = read(Offer(**WORK, cost=cost))
    assert isinstance(found, Permission)
    assert found.reason == "spec"


def test_a_request_of_no_rounds_on_file_stops_no_page() -> None:
    burden = Burden(claimed={"down": 10, "up": 5}, rounds=Request(rounds=0).rounds, time=None, moved=None)
    assert burden.bytes_words.startswith("10 B in and 5 B out")
