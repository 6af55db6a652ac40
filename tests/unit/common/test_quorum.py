"""The one rule of participation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.errors import SpecError
from fedjob.common.quorum import Quorum, Verdict, too_few

NODES = ["a", "b", "c", "d"]
SETS = st.sets(st.sampled_from(NODES))


@pytest.mark.feature("FB-79")
@given(required=SETS, least=st.integers(1, 5), replied=SETS, failed=SETS, more=SETS)
def test_a_verdict_other_than_open_is_final(
    required: set[str], least: int, replied: set[str], failed: set[str], more: set[str]
) -> None:
    quorum = Quorum(required=tuple(required), min_nodes=least)
    verdict = quorum.decide(NODES, replied, failed)
    later = quorum.decide(NODES, replied | (more - failed), failed)
    if verdict is not Verdict.OPEN:
        assert later is verdict


@given(required=SETS, least=st.integers(1, 5), replied=SETS, failed=SETS)
def test_a_closed_ask_is_decided(required: set[str], least: int, replied: set[str], failed: set[str]) -> None:
    silent = {*NODES} - replied  # the deadline has passed: nobody else is waited for
    verdict = Quorum(required=tuple(required), min_nodes=least).decide(NODES, replied, failed | silent)
    enough = len(replied) >= least and required <= replied
    assert verdict is (Verdict.MET if enough else Verdict.IMPOSSIBLE)


def test_everybody_is_waited_for_until_the_deadline() -> None:
    assert Quorum(min_nodes=1).decide(NODES, ["a"], []) is Verdict.OPEN
    assert Quorum(min_nodes=1).decide(NODES, ["a"], NODES) is Verdict.MET


def test_a_lost_required_node_makes_it_impossible_at_once() -> None:
    assert Quorum(required=("b",)).decide(NODES, ["a"], ["b"]) is Verdict.IMPOSSIBLE


def test_all_means_those_that_are_asked() -> None:
    everybody = Quorum(required="all")
    assert everybody.decide(NODES, NODES[1:], []) is Verdict.OPEN
    assert everybody.decide(NODES, NODES[1:], ["a"]) is Verdict.IMPOSSIBLE
    assert everybody.decide(["b", "c"], ["b", "c"], ["a"]) is Verdict.MET


@pytest.mark.parametrize(
    "wrong",
    [
        {"required": "alll"},
        {"required": [1]},
        {"min_nodes": 0},
        {"min_nodes": True},
        {"deadline_s": 0},
        {"deadline_s": -1.0},
    ],
)
def test_a_wrong_argument_says_what_was_expected(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"takes|is a whole number"):
        Quorum(**wrong)


def test_an_ask_that_names_its_nodes_needs_no_others() -> None:
    rule = Quorum(required=["a", "b"], min_nodes=3, deadline_s=5)
    assert rule.among(["b", "c"]) == Quorum(required=["b"], min_nodes=2, deadline_s=5)
    assert rule.among(["a", "b", "c", "d"]) == rule
    assert Quorum(required="all").among(["c"]).required == ("c",)


def test_the_error_of_too_few_names_who_is_needed_and_who_is_left_out() -> None:
    error = too_few(Quorum(required=("b",), min_nodes=2), 3, ["a"], {"c": "late", "b": "silent"})
    assert str(error) == (
        "round 3 can't go on: 1 node contributed, expected 2 or more, b among them (b: silent; c: late)"
    )
    enough = too_few(Quorum(required=("b",), min_nodes=2), 3, ["a", "d"], {"c": "late", "b": "silent"})
    assert str(enough).endswith("(b: silent; c: late). To go on without b: quorum=Quorum(min_nodes=2)")
    assert (
        str(too_few(Quorum(min_nodes=2), 1, ["a"], {}))
        == "round 1 can't go on: 1 node contributed, expected 2 or more"
    )
    assert error.received == ("a",)
    assert error.left_out == {"b": "silent", "c": "late"}


def test_nodes_that_are_left_out_for_one_reason_share_it_in_the_error() -> None:
    left_out = {"a": "exception: ValueError: no", "c": "exception: ValueError: no", "b": "late"}
    assert str(too_few(Quorum(), 1, [], left_out)).endswith("(a, c: exception: ValueError: no; b: late)")
    many = {f"node-{k:04d}": "exception: ValueError: no" for k in range(1000)}
    assert str(too_few(Quorum(), 1, [], many)).endswith(
        "(node-0000, node-0001, node-0002, node-0003, node-0004 and 995 more: exception: ValueError: no)"
    )
    unlike = {f"node-{k:04d}": f"exception: IndexError: {k}" for k in range(1000)}
    assert str(too_few(Quorum(), 1, [], unlike)).endswith(
        "; node-0004: exception: IndexError: 4; 995 more for other reasons)"
    )


def test_who_has_to_answer_is_put_in_words() -> None:
    assert Quorum().words == "1 or more"
    assert Quorum(required="all").words == "every node"
    assert Quorum(required=("a",)).words == "a"
    assert Quorum(required=("a", "b")).words == "a and b"
    assert Quorum(required=("a", "b", "c"), min_nodes=3).words == "a, b and c"
    assert Quorum(required=("a", "b"), min_nodes=3).words == "3 or more, a and b among them"
    assert Quorum(required=tuple("abcdefgh")).words == "a, b, c, d, e and 3 more"
    assert Quorum(required=tuple("abcdef")).words == "a, b, c, d, e and 1 more"
