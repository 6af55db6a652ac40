"""The bound on epsilon of the membership audit, held against the paper's figures and against randomised response."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.membership import Canaries, audited, ceiling, epsilon_bound, p_value, scores_of


def test_the_probability_of_right_guesses_is_the_papers() -> None:
    assert p_value(100, 100, 75, math.log(3), 0.0) == pytest.approx(0.553, abs=0.001)


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "published"),
    [
        (100, 100, 75, 0.0, 0.702),
        (100, 100, 75, 1e-4, 0.699),
        (1000, 100, 75, 1e-4, 0.673),
        (100_000, 1510, 1439, 1e-5, 2.675),
    ],
)
def test_the_bound_is_the_papers(
    canaries: int, guesses: int, right: int, delta: float, published: float
) -> None:
    assert epsilon_bound(canaries, guesses, right, delta=delta, error=0.05) == pytest.approx(
        published, abs=0.001
    )


@pytest.mark.parametrize("number", [16, 100, 1000])
def test_where_all_guesses_are_right_the_bound_has_a_closed_form(number: int) -> None:
    exact = -math.log(0.05 ** (-1 / number) - 1)
    assert epsilon_bound(number, number, number, delta=0.0, error=0.05) == pytest.approx(exact, abs=1e-6)


def test_guesses_no_better_than_coins_tell_nothing() -> None:
    assert epsilon_bound(100, 100, 50, delta=1e-5, error=0.05) == 0
    assert epsilon_bound(100, 100, 0, delta=1e-5, error=0.05) == 0
    assert epsilon_bound(100, 0, 0, delta=1e-5, error=0.05) == 0


def test_a_larger_delta_and_more_canaries_left_out_refute_less() -> None:
    bounds = [epsilon_bound(1000, 100, 90, delta=delta, error=0.05) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)
    assert epsilon_bound(100, 100, 90, delta=1e-4, error=0.05) > bounds[2]


def test_more_right_guesses_than_guesses_are_refused() -> None:
    with pytest.raises(ValueError, match="right <= guesses <= canaries"):
        p_value(100, 10, 11, 1.0, 0.0)


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_the_bound_on_randomised_response_is_its_epsilon_at_most_as_often_as_promised(epsilon: float) -> None:
    """The mechanism that the bound is exact for: each coin is told truly with probability e^eps / (1 + e^eps)."""
    rng = np.random.default_rng(3)
    over, found = 0, []
    for _ in range(200):
        included = rng.random(200) < 0.5
        true = rng.random(200) < 1 / (1 + math.exp(-epsilon))
        told = np.where(true, included, ~included) + 0.1 * rng.random(200)
        found.append(audited(told, included, delta=0.0, error=0.05).bound)
        over += found[-1] > epsilon
    assert over <= 0.05 * 200
    assert np.median(found) > 0.4 * epsilon


def test_a_bound_is_no_higher_than_that_of_guesses_that_are_all_right() -> None:
    included = np.arange(200) % 2 == 0
    assert audited(included.astype(float), included, delta=1e-5, error=0.05).bound == ceiling(200)


def test_a_canary_scores_by_its_pixel_and_not_by_how_common_its_label_is() -> None:
    import torch

    found = Canaries(
        inputs=np.eye(3, 5, dtype=np.float32),
        labels=np.array([0, 1, 1]),
        included=np.array([True, False, True]),
    )
    weight = torch.zeros(10, 5)
    weight[0, 0] = weight[1, 2] = 1.0
    bias = torch.zeros(10)
    bias[1] = 5.0
    scores = scores_of({"weight": weight, "bias": bias}, found)
    assert scores[1] == 0
    assert scores[0] > 0.9
    assert scores[2] > 0.9
