"""Products of columns are not told where a column, or a combination of columns, marks few rows."""

from __future__ import annotations

import numpy as np
import pytest

from fedjob.privacy.isolation import isolates

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
