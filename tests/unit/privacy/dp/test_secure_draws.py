"""The draws of samples and noise have the distributions that the accountant counts on, and nothing can foretell them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedjob.privacy.dp.secure_draws import GRID_BITS, SecureDraws


def repeated(seed: str) -> Callable[[int], bytes]:
    """Return a source that gives the same bytes each time it is made, so that a test of a distribution is no lottery."""
    number = 0

    def source(count: int) -> bytes:
        nonlocal number
        number += 1
        return hashlib.shake_128(f"{seed} {number}".encode()).digest(count)

    return source


DRAWS = SecureDraws(repeated("distribution"))


@pytest.mark.parametrize("count", [1, 2, 3, 1000, (1 << 20) + 3])
def test_there_are_as_many_numbers_as_asked_for(count: int) -> None:
    found = DRAWS.normal(count)
    assert found.shape == (count,)
    assert np.isfinite(found).all()


def test_noise_is_normal_in_its_middle_and_its_tails() -> None:
    found = DRAWS.normal(400_000)
    assert stats.kstest(found, "norm").pvalue > 0.01
    for bound in (3.0, 4.0):
        expected = 2 * stats.norm.sf(bound) * len(found)
        assert abs((np.abs(found) > bound).sum() - expected) < 5 * math.sqrt(expected) + 1
    assert abs(found.var() - 1) < 0.01
    assert abs(stats.kurtosis(found)) < 0.05


def test_neighbouring_numbers_do_not_depend_on_each_other() -> None:
    found = DRAWS.normal(200_000)
    for apart in (1, 2):
        assert abs(np.corrcoef(found[:-apart], found[apart:])[0, 1]) < 0.01
        assert abs(np.corrcoef(found[:-apart] ** 2, found[apart:] ** 2)[0, 1]) < 0.01


def test_two_vectors_that_are_drawn_one_after_the_other_differ() -> None:
    assert not np.array_equal(SecureDraws().normal(8), SecureDraws().normal(8))
    assert SecureDraws().seed() != SecureDraws().seed()


def test_each_row_is_in_a_sample_with_the_rate_and_whichever_others_are() -> None:
    rows, rate, times = np.arange(40), 0.15, 20_000
    taken = np.zeros((times, len(rows)), dtype=bool)
    for number in range(times):
        taken[number, DRAWS.chosen(rows, rate)] = True
    deviation = math.sqrt(rate * (1 - rate) / times)
    assert (np.abs(taken.mean(axis=0) - rate) < 5 * deviation).all()
    together = (taken[:, :-1] & taken[:, 1:]).mean(axis=0)
    assert (np.abs(together - rate**2) < 5 * math.sqrt(rate**2 / times)).all()
    sizes = np.bincount(taken.sum(axis=1), minlength=len(rows) + 1)
    expected = stats.binom.pmf(np.arange(len(rows) + 1), len(rows), rate) * times
    common = expected > 20
    found = [*sizes[common], sizes[~common].sum()]
    assert stats.chisquare(found, [*expected[common], expected[~common].sum()]).pvalue > 0.001


@pytest.mark.parametrize(("rate", "size"), [(0.0, 0), (1.0, 30)])
def test_no_row_and_every_row_are_samples_too(rate: float, size: int) -> None:
    assert len(DRAWS.chosen(np.arange(30), rate)) == size


@pytest.mark.parametrize("deviation", [1e-6, 0.37, 1.0, 80.5])
def test_a_noisy_sum_lies_on_a_grid_far_coarser_than_its_digits(deviation: float) -> None:
    total = np.random.default_rng(1).normal(size=50_000) * deviation
    found = DRAWS.noisy(total, deviation)
    step = 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)
    assert np.array_equal(found / step, np.round(found / step))
    assert stats.kstest((found - total) / deviation, "norm").pvalue > 0.001


def test_what_a_sum_was_cant_be_told_from_its_low_bits() -> None:
    """Two sums that differ in their last bits alone give the same noisy sum."""
    one = np.array([0.1, 0.2, 3.0])
    other = np.nextafter(one, 10)
    assert np.array_equal(
        SecureDraws(repeated("low")).noisy(one, 1.0), SecureDraws(repeated("low")).noisy(other, 1.0)
    )
