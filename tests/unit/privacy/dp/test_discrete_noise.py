"""Samples of discrete noise against the exact probabilities of their distributions."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest

from fedjob.common.errors import SpecError
from fedjob.privacy.dp import discrete_noise
from fedjob.privacy.dp.discrete_noise import discrete_gaussian, discrete_laplace, exact_discrete_gaussian

SCALES = [Fraction(1, 10), Fraction(1, 2), Fraction(1), Fraction(7, 3), Fraction(40)]
VARIANCES = [Fraction(1, 50), Fraction(1, 3), Fraction(1), Fraction(17, 2), Fraction(900)]


def source(seed: int) -> discrete_noise.RandomBytes:
    return random.Random(seed).randbytes


def laplace(scale: Fraction, x: int) -> float:
    ratio = math.exp(-1 / scale)
    return (1 - ratio) / (1 + ratio) * ratio ** abs(x)


def gaussian(variance: Fraction) -> dict[int, float]:
    end = math.ceil(12 * math.sqrt(variance)) + 3
    weights = {k: math.exp(-k * k / (2 * variance)) for k in range(-end, end + 1)}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


def is_like(found: Iterable[int], probability: dict[int, float]) -> bool:
    """Return whether a sample fits probabilities, by Pearson's test at 4 standard deviations; rare ones are one class."""
    counts = Counter(found)
    number = counts.total()
    common = {x for x, p in probability.items() if p * number >= 20}
    classes = [(counts[x], probability[x] * number) for x in common]
    rest = number - sum(expected for _, expected in classes)
    if rest >= 5:
        classes.append((number - sum(count for count, _ in classes), rest))
    else:
        assert number - sum(count for count, _ in classes) <= 25
    chi = sum((count - expected) ** 2 / expected for count, expected in classes)
    freedom = max(1, len(classes) - 1)
    return chi < freedom + 4 * math.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("scale", SCALES)
def test_laplace_noise_has_exactly_its_probabilities(scale: Fraction) -> None:
    found = discrete_laplace(scale, 20_000, source=source(1))

    assert is_like(found, {x: laplace(scale, x) for x in range(-400, 401)})


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_noise_has_exactly_its_probabilities(variance: Fraction) -> None:
    found = exact_discrete_gaussian(variance, 20_000, source=source(2))

    assert is_like(found, gaussian(variance))


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_noise_of_long_vectors_has_exactly_its_probabilities(variance: Fraction) -> None:
    found = discrete_gaussian(variance, 300_000, source=source(3))

    assert found.dtype == np.int64
    assert is_like(found.tolist(), gaussian(variance))


@pytest.mark.parametrize("deviation", [127, 256, 700, 5000])
def test_gaussian_noise_in_two_parts_has_exactly_its_probabilities(deviation: int) -> None:
    variance = Fraction(deviation**2) + Fraction(1, 3)
    found = discrete_gaussian(variance, 400_000, source=source(4))
    total = deviation * math.sqrt(2 * math.pi)
    wide = range(-6 * deviation, 6 * deviation)
    step = max(1, deviation // 40)
    classes: dict[int, float] = {}
    for x in wide:
        classes[x // step] = classes.get(x // step, 0.0) + math.exp(-x * x / (2 * variance)) / total

    assert is_like((found // step).tolist(), classes)
    low_bits = found % 16  # the fine part alone: nearly uniform
    assert is_like(low_bits.tolist(), dict.fromkeys(range(16), 1 / 16))


@pytest.mark.parametrize("variance", [1e5, 1e9, 1e15, 1e24, 2.0**112])
def test_noise_of_any_size_has_its_moments(variance: float) -> None:
    found = discrete_gaussian(variance, 100_000, source=source(5)) / math.sqrt(variance)
    single = np.array(exact_discrete_gaussian(variance, 3000, source=source(6)), float) / math.sqrt(variance)

    for sample in (found, single):
        error = 5 / math.sqrt(len(sample))
        assert abs(sample.mean()) < error
        assert abs(sample.var() - 1) < 1.5 * error
        assert abs((sample**3).mean()) < 4 * error
        assert abs((sample**4).mean() - 3) < 10 * error
        assert 0.045 - error < (np.abs(sample) > 2).mean() < 0.046 + error


def test_laplace_noise_of_any_size_has_its_moments() -> None:
    for scale in (1e-3, 1e3, 1e12, 1e200):
        found = np.array(
            [Fraction(x) / Fraction(scale) for x in discrete_laplace(scale, 4000, source=source(7))]
        )
        sample = found.astype(float)
        if scale < 1:
            assert not sample.any()
            continue
        assert abs(sample.mean()) < 0.12
        assert abs(sample.var() - 2) < 0.4
        assert abs((np.abs(sample) > 2).mean() - math.exp(-2)) < 0.03


def test_a_number_on_the_edge_of_two_sizes_is_decided_by_more_bits() -> None:
    table = discrete_noise._table(Fraction(100))

    for size in (0, 1, 5, 30, 100, len(table.fine) - 1):
        end = table.fine[size]
        assert table.size_of(end - 1) <= size < table.size_of(end)
    assert table.size_of((1 << 192) - 1) == len(table.fine)


def test_a_random_number_next_to_a_probability_is_decided_by_more_bits() -> None:
    drawn = discrete_noise._LongDraw(
        Fraction(10**6), 3, discrete_noise._table(Fraction(10**6, 64)), discrete_noise._KeyStream(source(8))
    )
    exponent = (40 * 16 * 5 + 25) / (2 * 10**6)
    expected = math.exp(-exponent)

    low, high = 0, 1 << 192
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if drawn.accepts(40, 5, middle) else (low, middle)
    assert low / 2.0**192 == pytest.approx(expected, rel=1e-14)


def test_every_number_is_decided_alike_by_few_bits_and_by_many() -> None:
    stream = discrete_noise._KeyStream(source(9))
    for variance in (Fraction(1, 4), Fraction(3), Fraction(200**2)):
        table = discrete_noise._table(variance)
        words = np.concatenate(
            [stream.words(3000), table.ends, table.ends + np.uint64(1), table.ends - np.uint64(1)]
        )
        sizes = table.sizes(words, stream)
        for word, size in zip(words.tolist(), sizes.tolist(), strict=True):
            least, most = word << 128, ((word + 1) << 128) - 1
            assert table.size_of(least) <= size <= table.size_of(most)


def test_noise_differs_each_time_and_follows_from_its_source() -> None:
    for draw in (discrete_gaussian, exact_discrete_gaussian, discrete_laplace):
        assert list(draw(1e6, 20)) != list(draw(1e6, 20))
        assert list(draw(1e6, 20, source=source(1))) == list(draw(1e6, 20, source=source(1)))
        assert list(draw(1e6, 0)) == []


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan])
def test_noise_without_a_size_is_refused(wrong: float) -> None:
    for draw in (discrete_gaussian, exact_discrete_gaussian, discrete_laplace):
        with pytest.raises(SpecError, match="a finite number above 0"):
            draw(wrong, 1)
    with pytest.raises(SpecError, match=r"2\^112 at most"):
        discrete_gaussian(1e40, 1)
