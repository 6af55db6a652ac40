"""What an ask is computed of: not of the contributions that it can't be computed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.by_function import FunctionAggregator
from fedjob.aggregation.collect import Collect
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.guard import Guard
from fedjob.aggregation.mean import WeightedMean
from fedjob.aggregation.robust.geometric_median import GeometricMedian
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.shares import capped, out_of_proportion
from fedjob.aggregation.sum import Sum
from fedjob.common.errors import JobFailed, NoSpace, QuorumNotReached, SpecError, Unsolvable
from fedjob.common.quorum import Quorum
from fedjob.messaging.messages import Result
from fedjob.metrics.states import mean_state
from fedjob.protocols.base import Ask, Gathered
from fedjob.researcher.federation.base import AskContext, Collected
from fedjob.researcher.rounds.computation import AskComputation
from fedjob.researcher.storage.replies import Arrival

NAN, INF = float("nan"), float("inf")


def arrivals(**values: Any) -> Collected:
    """Return the answers of nodes with these values."""
    made = {
        node: value
        if isinstance(value, Arrival)
        else Arrival(
            node=node, result=Result(of="m", key="k", ok=True, weight=10.0, num_examples=10, value=value)
        )
        for node, value in values.items()
    }
    return Collected(arrivals=made, order=tuple(made))


def arrival(node: str, **fields: Any) -> Arrival:
    return Arrival(
        node=node, result=Result(of="m", key="k", ok=True, **{"weight": 10.0, "num_examples": 10, **fields})
    )


def computation(
    rule: Aggregator,
    *,
    finish: Callable[[Gathered], dict[str, Any]] | None = None,
    least: int = 2,
    guard: Guard | None = None,
    num_rows: Mapping[str, int] | None = None,
    is_own: bool = False,
    ask: Ask | None = None,
) -> AskComputation:
    return AskComputation(
        ask=ask or Ask(step="count", aggregator=rule),
        place=AskContext(job="j", round=1, step="count", spool=Path("nowhere")),
        rule=rule,
        is_own=is_own,
        quorum=Quorum(min_nodes=least),
        guard=guard or Guard(),
        num_rows=num_rows or {},
        num_nodes=5,
        finish=finish,
        spool=lambda total: (total, "hash"),
        take_back=lambda total: None,
    )


ODD_VALUES: list[Any] = ["5", {"a": 5}, [5.0], [1.0, 2.0, 3.0]]


@pytest.mark.parametrize("odd", ODD_VALUES)
@pytest.mark.parametrize("rule", [Sum(), WeightedMean(), Median(), GeometricMedian()])
def test_a_value_of_another_structure_is_left_out_by_name(rule: Aggregator, odd: Any) -> None:
    collected, gathered, _, _ = computation(rule).outcome(arrivals(ann=4.0, bad=odd, cat=4.0))
    assert list(collected.arrivals) == ["ann", "cat"]
    assert collected.order == ("ann", "cat")
    assert gathered.total.value == (8.0 if isinstance(rule, Sum) else 4.0)
    assert gathered.left_out["bad"].startswith("bad_value: ")


@pytest.mark.parametrize(
    "odd",
    [
        {"sum": "x", "n": 1},
        {"sum": {"a": 1.0}, "n": 1},
        {"sum": [1.0], "n": 1},
        {"sum": [1.0, 2.0, 3.0], "n": 1},
    ],
)
def test_a_part_of_another_structure_deep_in_a_value_is_named(odd: Any) -> None:
    good = {"sum": [1.0, 2.0], "n": 1}
    collected, gathered, _, _ = computation(Sum()).outcome(arrivals(ann=good, bad=odd, cat=good))
    assert gathered.total.value == {"sum": [2.0, 4.0], "n": 2}
    assert gathered.left_out["bad"].startswith("bad_value: sum is ")
    assert "bad" not in collected.arrivals


@pytest.mark.parametrize("rule", [WeightedMean(), Median(), GeometricMedian()])
def test_no_value_at_all_is_left_out_of_what_needs_one(rule: Aggregator) -> None:
    for name in ("aaa", "zzz"):
        values = dict(sorted({"ann": 4.0, "cat": 4.0, name: None}.items()))
        _, gathered, _, _ = computation(rule).outcome(arrivals(**values))
        assert gathered.total.value == 4.0
        assert gathered.left_out[name].startswith("bad_value: ")
    _, gathered, _, _ = computation(rule).outcome(arrivals(ann=None, cat=None))
    assert gathered.total.value is None


def test_two_of_five_are_found() -> None:
    _, gathered, _, _ = computation(Sum(), least=3).outcome(
        arrivals(ann=[1.0], bad=[1.0, 2.0], cat=[1.0], dire="x", eve=[1.0])
    )
    assert gathered.total.value == [3.0]
    assert sorted(gathered.left_out) == ["bad", "dire"]


def test_too_few_left_is_a_lost_quorum_that_names_them() -> None:
    with pytest.raises(QuorumNotReached, match="bad_value"):
        computation(Sum(), least=3).outcome(arrivals(ann=[1.0], bad="x", cat=[1.0]))
    with pytest.raises(QuorumNotReached, match=r"ann: bad_value.*bad: bad_value"):
        computation(Sum(), least=1).outcome(arrivals(ann=[1.0], bad="x"))


def test_a_total_that_overflows_names_whose_numbers_are_so_large() -> None:
    collected, gathered, _, _ = computation(Sum()).outcome(
        arrivals(ann=1.0, bad=1.7e308, cat=1.7e308, dan=1.0)
    )
    assert gathered.total.value in (1.7e308 + 1.0, 2.0)
    assert set(gathered.left_out) <= {"bad", "cat"}
    assert gathered.left_out
    assert all(reason.startswith("not_finite: ") for reason in gathered.left_out.values())
    assert len(collected.arrivals) >= 2


def test_a_metric_of_another_kind_is_left_out_before_it_is_added() -> None:
    states: dict[str, Any] = {
        "ann": mean_state(0.5, 10),
        "bad": {"kind": "accuracy", "n": 10, "correct": 5},
        "cat": mean_state(0.7, 10),
    }
    made = {node: arrival(node, metrics={"validate": {"loss": state}}) for node, state in states.items()}
    _, gathered, _, _ = computation(Collect()).outcome(arrivals(**made))
    assert gathered.left_out["bad"].startswith("bad_metrics: loss (validate)")
    assert gathered.total.metrics["validate"]["loss"]["weight"] == 20.0


def test_where_nobody_can_say_which_metric_is_right_none_counts() -> None:
    states: dict[str, Any] = {"ann": mean_state(0.5, 10), "bad": {"kind": "accuracy", "n": 10, "correct": 5}}
    made = {node: arrival(node, metrics={"validate": {"loss": state}}) for node, state in states.items()}
    with pytest.raises(QuorumNotReached, match=r"ann: bad_metrics.*bad: bad_metrics"):
        computation(Collect(), least=1).outcome(arrivals(**made))


def test_a_protocol_that_fails_for_one_answer_goes_on_without_it() -> None:
    def finish(gathered: Gathered) -> dict[str, Any]:
        return {
            "mean": sum(reply.value["mean"] for reply in gathered.replies.values()) / len(gathered.replies)
        }

    good = {"mean": 2.0}
    for odd in ({"median": 3.0}, "x", None, {"mean": "x"}, {"mean": []}):
        _, gathered, _, state = computation(Collect(), finish=finish).outcome(
            arrivals(ann=good, bad=odd, cat=good)
        )
        assert state == {"mean": 2.0}
        assert gathered.left_out["bad"].startswith("bad_value: ")


def test_a_researchers_own_aggregator_that_fails_for_one_value_goes_on_without_it() -> None:
    def sum_of_first(values: list[Any], weights: list[float]) -> Any:
        return sum(value["first"] for value in values)

    rule = FunctionAggregator(sum_of_first, "sum_of_first")
    _, gathered, _, _ = computation(rule, is_own=True).outcome(
        arrivals(ann={"first": 1}, bad={"last": 1}, cat={"first": 2})
    )
    assert gathered.total.value == 3
    assert list(gathered.left_out) == ["bad"]


def test_an_error_that_is_nobodys_fault_is_passed_on() -> None:
    def broken(values: list[Any], weights: list[float]) -> Any:
        raise ZeroDivisionError("my own mistake")

    with pytest.raises(ZeroDivisionError, match="my own"):
        computation(FunctionAggregator(broken, "broken"), is_own=True).outcome(arrivals(ann=1, ben=2, cat=3))

    def unsolvable(gathered: Gathered) -> dict[str, Any]:
        raise Unsolvable("terms depend on each other")

    with pytest.raises(Unsolvable):
        computation(Sum(), finish=unsolvable).outcome(arrivals(ann=1, ben=2, cat=3))

    def full(gathered: Gathered) -> dict[str, Any]:
        raise NoSpace("the disk is full")

    with pytest.raises(NoSpace):
        computation(Sum(), finish=full).outcome(arrivals(ann=1, ben=2, cat=3))


def test_parameters_that_are_not_finite_after_a_round_name_their_cause() -> None:
    import torch

    def finish(gathered: Gathered) -> dict[str, Any]:
        factor = max(reply.value for reply in gathered.replies.values())
        return {"params": {"w": torch.tensor([2.0]) * factor}}

    ask = Ask(step="train", aggregator=WeightedMean(), sends_total=False)
    made = computation(WeightedMean(), finish=finish, ask=ask)
    _, gathered, _, state = made.outcome(arrivals(ann=1.0, bad=1e39, cat=2.0))
    assert state is not None
    assert state["params"]["w"].item() == 4.0
    assert gathered.left_out["bad"].startswith("not_finite: ")

    def diverges(gathered: Gathered) -> dict[str, Any]:
        return {"params": {"w": torch.tensor([INF])}}

    with pytest.raises(JobFailed, match="learning rate"):
        computation(WeightedMean(), finish=diverges, ask=ask).outcome(arrivals(ann=0.0, ben=0.0, cat=0.0))


@pytest.mark.parametrize(
    ("weights", "share", "expected"),
    [
        ({"a": 1e9, "b": 10.0, "c": 20.0}, 0.5, {"a": 30.0, "b": 10.0, "c": 20.0}),
        ({"a": 10.0, "b": 10.0, "c": 10.0}, 0.5, {"a": 10.0, "b": 10.0, "c": 10.0}),
        ({"a": 100.0, "b": 90.0, "c": 1.0, "d": 1.0}, 0.3, {"a": 1.5, "b": 1.5, "c": 1.0, "d": 1.0}),
        ({"a": 5.0, "b": 1.0}, 0.4, {"a": 1.0, "b": 1.0}),
        ({"a": 0.0, "b": 0.0}, 0.4, {"a": 0.0, "b": 0.0}),
        ({}, 0.4, {}),
    ],
)
def test_a_share_of_the_weight_is_held_by_lowering_the_heaviest(
    weights: dict[str, float], share: float, expected: dict[str, float]
) -> None:
    assert capped(weights, share) == pytest.approx(expected)


def test_a_share_holds_for_all_the_total_is_made_of() -> None:
    made = {
        "ann": arrival("ann", value=0.0),
        "bad": arrival("bad", value=9.0, weight=990.0),
        "cat": arrival("cat", value=0.0),
    }
    collected, gathered, _, _ = computation(WeightedMean(), guard=Guard(max_share=0.5)).outcome(
        arrivals(**made)
    )
    assert gathered.total.value == pytest.approx(4.5)
    assert gathered.replies["bad"].weight == collected.arrivals["bad"].result.weight == pytest.approx(20.0)
    for share in (0.0, 1.0, 1.5, -1.0, NAN):
        with pytest.raises(SpecError, match="max_share"):
            Guard(max_share=share)


def test_many_more_examples_of_a_row_than_all_others_have_are_left_out() -> None:
    rows = {"ann": 100, "bad": 100, "cat": 100}
    assert out_of_proportion({"ann": 100.0, "bad": 1e9, "cat": 120.0}, rows).keys() == {"bad"}
    assert out_of_proportion({"ann": 1e5, "bad": 3e5, "cat": 2e6}, rows) == {}, "windows of recordings"
    assert out_of_proportion({"ann": 100.0, "bad": 1e9}, rows) == {}, "two can't be told apart"
    made = {n: arrival(n, value=float(n == "bad")) for n in rows}
    made["bad"] = replace(made["bad"], result=replace(made["bad"].result, weight=1e8, num_examples=10**8))
    _, gathered, _, _ = computation(WeightedMean(), num_rows=rows).outcome(arrivals(**made))
    assert gathered.total.value == 0.0
    assert gathered.left_out["bad"].startswith("bad_weight: ")


def test_contributions_stay_as_they_came(tmp_path: Path) -> None:
    kept: Sequence[Contribution] = [Contribution({"a": 1.0}), Contribution({"a": 2.0})]
    Sum().aggregate(kept)
    assert [one.value for one in kept] == [{"a": 1.0}, {"a": 2.0}]
