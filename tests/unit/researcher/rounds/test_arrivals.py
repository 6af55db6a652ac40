"""A round of several asks, told as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.aggregation.contribution import Contribution
from fedjob.metrics.states import mean_state, value
from fedjob.protocols.base import Gathered
from fedjob.researcher.rounds.arrivals import RoundArrivals


def gathered(loss: float, num_examples: int, left_out: Mapping[str, str] | None = None) -> Gathered:
    metrics = {"train": {"loss": mean_state(loss, num_examples)}}
    total = Contribution(None, float(num_examples), metrics)
    return Gathered(total=total, replies={}, left_out=left_out or {})


def arrivals(*nodes: str) -> dict[str, Any]:
    return {node: f"what {node} sent" for node in nodes}


def test_asks_of_one_round_add_up() -> None:
    first = RoundArrivals().then(1, arrivals("a"), gathered(1.0, 10), completes=False)
    both = first.then(1, arrivals("b"), gathered(4.0, 30, {"c": "silent"}), completes=True)
    assert (list(both.arrivals), both.left_out) == (["a", "b"], {"c": "silent"})
    assert value(both.metrics["train"]["loss"]) == (1.0 * 10 + 4.0 * 30) / 40
    assert value(first.metrics["train"]["loss"]) == 1.0


def test_what_a_node_did_last_counts() -> None:
    first = RoundArrivals().then(1, arrivals("a"), gathered(1.0, 10, {"b": "slow"}), completes=False)
    then = first.then(1, arrivals("b"), gathered(1.0, 10, {"a": "gone"}), completes=False)
    assert (list(then.arrivals), then.left_out) == (["b"], {"a": "gone"})


def test_a_round_that_is_complete_or_another_one_begins_anew() -> None:
    done = RoundArrivals().then(1, arrivals("a"), gathered(1.0, 10), completes=True)
    for round_ in (1, 2):
        again = done.then(round_, arrivals("b"), gathered(2.0, 10), completes=True)
        assert (again.round, list(again.arrivals)) == (round_, ["b"])
        assert value(again.metrics["train"]["loss"]) == 2.0
