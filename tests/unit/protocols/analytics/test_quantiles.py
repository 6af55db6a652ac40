"""Order statistics by counting: brackets that hold them, and that get as narrow as was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.protocols.analytics.quantiles import Bracket, edges_within, narrowed, ranks_of, steps_for

numbers = st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=30)


def search(values: np.ndarray, rank: int, asks: int) -> Bracket:
    bracket = Bracket(rank)
    for _ in range(asks):
        edges = edges_within(bracket.low, bracket.high)
        counts = [int((values < edge).sum()) for edge in edges]
        bracket = narrowed(bracket, edges, counts, counts)
    return bracket


@given(numbers, st.data())
@settings(max_examples=40, deadline=None)
def test_a_bracket_holds_its_order_statistic_and_is_as_narrow_as_was_asked_for(
    values: list[float], data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    exact = sorted(values)[rank]
    bracket = search(np.array(values), rank, 1 + steps_for(1e-6))
    assert bracket.low <= exact < bracket.high
    assert bracket.width <= max(1e-6 * abs(exact), 2**-64) * 1.001
    assert abs(bracket.value - exact) <= bracket.width


@pytest.mark.parametrize("exact", [0.0, 54.0, 2.3, -17.25, 1e-3, 130000.0])
def test_numbers_that_people_write_are_found_exactly(exact: float) -> None:
    assert search(np.array([exact]), 0, 1 + steps_for(1e-9)).value == exact


def test_where_counts_are_withheld_the_bracket_is_wider_and_true() -> None:
    edges = [0.0, 10.0, 20.0, 30.0]
    bracket = narrowed(Bracket(4, 0.0, 30.0), edges, least=[0, 3, 3, 9], most=[0, 3, 9, 9])
    assert (bracket.low, bracket.high, bracket.parts) == (10.0, 30.0, 0)
    assert narrowed(bracket, edges, [0] * 4, [9] * 4) == bracket


def test_what_lies_outside_of_all_edges_has_no_value() -> None:
    bracket = search(np.array([2.0**200]), 0, 3)
    assert math.isnan(bracket.value)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_ranks_are_those_of_numpy(fraction: float) -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    lower, upper, way = ranks_of(fraction, len(values))
    assert values[lower] + way * (values[upper] - values[lower]) == pytest.approx(
        np.quantile(values, fraction)
    )
