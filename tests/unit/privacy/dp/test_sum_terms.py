"""The division of a privacy budget among sums: what they cost together, and the noise that they get."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.errors import SpecError
from fedjob.privacy.dp.mechanisms import Gaussian, Pure, cost_of
from fedjob.privacy.dp.sum_terms import GAUSSIAN, LAPLACE, SumTerms, sum_terms

MANY = 10**9


@settings(max_examples=25, deadline=None)
@given(
    epsilon=st.floats(1e-3, 30),
    exponent=st.floats(-10, -2),
    number=st.integers(1, 500),
)
def test_all_sums_together_never_cost_more_than_the_budget(
    epsilon: float, exponent: float, number: int
) -> None:
    delta = 10.0**exponent
    terms = sum_terms(epsilon=epsilon, delta=delta, number=number, num_rows=MANY)
    assert terms.mechanism.number == number
    cost = cost_of([terms.mechanism], delta)
    assert cost <= epsilon
    assert cost > 0.98 * epsilon or epsilon < 0.1  # a delta alone allows for what is less


def test_few_sums_get_laplace_noise_and_many_gaussian_noise() -> None:
    few = sum_terms(epsilon=1.0, delta=1e-6, number=1, num_rows=MANY)
    many = sum_terms(epsilon=1.0, delta=1e-6, number=100, num_rows=MANY)
    assert (few.distribution, many.distribution) == (LAPLACE, GAUSSIAN)
    assert isinstance(few.mechanism, Pure)
    assert isinstance(many.mechanism, Gaussian)
    assert math.sqrt(few.variance(1)) == pytest.approx(math.sqrt(2), rel=0.1)
    assert math.sqrt(many.variance(1)) < 100


def test_a_budget_too_small_for_gaussian_noise_is_divided_all_the_same() -> None:
    terms = sum_terms(epsilon=1e-7, delta=1e-9, number=1, num_rows=MANY)
    assert terms.distribution == LAPLACE


@pytest.mark.parametrize("distribution", [LAPLACE, GAUSSIAN])
@pytest.mark.parametrize("sensitivity", [1, 1 << 15, 1 << 30])
@pytest.mark.parametrize("noise", [0.4, 12.5])
def test_noise_has_the_variance_that_is_reported(distribution: str, sensitivity: int, noise: float) -> None:
    if noise * sensitivity < 1 and distribution == GAUSSIAN:
        noise = 1.5  # of less, the variance is not the parameter's
    terms = SumTerms(epsilon=1.0, delta=1e-6, distribution=distribution, noise=noise, number=1, num_rows=100)
    found = terms.noised([7 * sensitivity] * 4000, sensitivity, source=random.Random(5).randbytes)
    sample = np.array(found, dtype=float) / sensitivity - 7
    variance = terms.variance(sensitivity) / sensitivity**2
    assert abs(sample.mean()) < 5 * math.sqrt(variance / len(sample))
    assert sample.var() == pytest.approx(variance, rel=0.15)


def test_terms_are_the_same_after_a_journey_as_plain_data() -> None:
    terms = sum_terms(epsilon=1.0, delta=1e-6, number=3, num_rows=400)
    assert SumTerms.from_plain(terms.to_plain()) == terms


@pytest.mark.parametrize(
    ("epsilon", "number", "rows"),
    [(1.0, 5, 12), (0.01, 1, 200), (1e-6, 1, 10**5), (5e-324, 3, 10**5), (1.0, 1, 0)],
)
def test_a_dataset_with_fewer_rows_than_noise_makes_sense_for_is_refused(
    epsilon: float, number: int, rows: int
) -> None:
    with pytest.raises(
        SpecError, match=rf"the dataset has {rows:,} rows: nothing could be seen. Ask for fewer"
    ):
        sum_terms(epsilon=epsilon, delta=1e-6, number=number, num_rows=rows)
    assert sum_terms(epsilon=epsilon, delta=1e-6, number=number, num_rows=MANY).num_rows == MANY


def test_an_epsilon_that_promises_nothing_still_costs_a_number() -> None:
    for epsilon in (1e3, 1e10, 1e308):
        terms = sum_terms(epsilon=epsilon, delta=1e-6, number=2, num_rows=50)
        assert 0 < cost_of([terms.mechanism], 1e-6) <= epsilon
        assert terms.noised([3, 4], 1) != []
        assert terms.variance(1 << 30) >= 0
