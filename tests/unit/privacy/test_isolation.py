"""Products of columns are not told where a column, or a combination of columns, marks few rows."""

from __future__ import annotations

import numpy as np
import pytest

from fedjob.privacy.isolation import differ_in_few, dominated, isolates, marks_few

RNG = np.random.default_rng(6)
AGE, CHOL = RNG.normal(60, 9, 40), RNG.normal(240, 40, 40)


def mark(num_rows: int) -> np.ndarray:
    return (np.arange(40) < num_rows).astype(float)


@pytest.mark.parametrize(("num_rows", "isolated"), [(0, False), (1, True), (4, True), (5, False), (36, True)])
def test_a_mark_of_few_rows_or_of_all_but_few_isolates_them(num_rows: int, isolated: bool) -> None:
    assert isolates(np.column_stack([CHOL, mark(num_rows)]), 5) is isolated


def test_two_columns_that_differ_in_one_row_isolate_it() -> None:
    other = AGE.copy()
    other[7] += 1
    assert isolates(np.column_stack([AGE, other, CHOL]), 5)
    assert not isolates(np.column_stack([AGE, AGE, CHOL]), 5)


def test_more_columns_than_rows_isolate_every_row() -> None:
    assert isolates(RNG.normal(size=(6, 7)), 5)


def test_without_a_minimum_and_without_rows_nothing_is_isolated() -> None:
    assert not isolates(mark(1)[:, None], 1)
    assert not isolates(np.empty((0, 3)), 5)


@pytest.mark.parametrize(
    ("counts", "moments", "few"),
    [
        ((40,), 1, False),
        ((36, 4), 1, True),
        ((4, 36), 1, True),
        ((35, 5), 1, False),
        ((20, 16, 4), 1, False),
        ((20, 16, 4), 2, True),
        ((15, 10, 15), 2, False),
        ((38, 1, 1), 1, True),
        ((10, 10, 10, 4, 6), 2, False),
    ],
)
def test_a_sum_tells_how_often_each_of_two_values_occurs_and_squares_of_three(
    counts: tuple[int, ...], moments: int, few: bool
) -> None:
    column = np.repeat(np.arange(len(counts), dtype=np.float64) * 7.5, counts)
    assert marks_few(column, 5, moments=moments) is few
    assert not marks_few(column, 1, moments=moments)


def test_values_that_all_differ_mark_no_rows() -> None:
    assert not marks_few(np.arange(5.0), 5, moments=2)
    assert not marks_few(np.empty(0), 5, moments=2)


@pytest.mark.parametrize(
    ("changed", "factor", "few"), [(0, 1.0, False), (1, 1.0, True), (4, 2.54, True), (5, 1.0, False)]
)
def test_a_column_in_other_units_differs_in_the_rows_that_were_changed(
    changed: int, factor: float, few: bool
) -> None:
    one = np.random.default_rng(3).normal(50, 9, 40).round(1)
    other = factor * one + 3
    other[:changed] += np.arange(1, changed + 1)
    other[39] = np.nan
    assert differ_in_few(one, other, 5) is few
    assert differ_in_few(other, one, 5) is few


def test_columns_that_have_nothing_to_do_with_each_other_do_not_differ_in_few_rows() -> None:
    rng = np.random.default_rng(4)
    for other in (rng.normal(size=40), rng.integers(0, 2, 40).astype(float), np.zeros(40)):
        assert not differ_in_few(rng.integers(20, 80, 40).astype(float), other, 10)


@pytest.mark.parametrize(
    ("weights", "few"),
    [
        ([1.0] * 40, False),
        ([1.0] * 4 + [1e-6] * 36, True),
        ([1.0] * 6 + [0.0] * 34, False),
        ([-3.0] * 40, False),
        ([0.0] * 40, False),
        ([1e-300] * 2 + [0.0] * 38, True),
        ([np.inf] + [1.0] * 39, True),
    ],
)
def test_weights_that_lie_on_few_rows_dominate_a_sum(weights: list[float], few: bool) -> None:
    assert dominated(np.array(weights), 10) is few
    assert not dominated(np.array(weights), 0)
