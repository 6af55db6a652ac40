"""The least noise that keeps a promise of differential privacy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedjob.common.errors import SpecError
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of
from fedjob.privacy.dp.renyi import tightest, times, whole_curve

MAX_NOISE = 1e7
_LEAST = 0.05
"""Below this noise the bounds say nothing that one would rely on."""

_FINE_BELOW = 11.0
"""Orders from which on only whole ones are held, so that these alone find the noise: a request can't keep a node busy."""

_MAX_SECANTS = 8

_TOLERANCE = 1e-4
"""Of the noise, relative: what is given is never too little."""


@lru_cache(maxsize=1024)
def noise_for(epsilon: float, delta: float, *, rate: float = 1.0, number: int = 1) -> float:
    """Return the least noise multiplier with which a number of sums cost an epsilon at most.

    Args:
        epsilon, delta: of all sums together.
        rate: probability that a record is in a sum.
        number: of sums.

    Raises:
        SpecError: no noise is enough.
    """

    def whole_cost(noise: float) -> tuple[float, float]:
        return tightest(times(whole_curve(noise, rate), number), delta)

    def cost(noise: float) -> float:
        return cost_of([Gaussian(noise=noise, rate=rate, number=number)], delta)

    low, high = 0.0, 1.0
    while whole_cost(high)[0] > epsilon:
        low, high = high, 2 * high
        if high > MAX_NOISE:
            raise SpecError(
                f"no noise is enough for epsilon={epsilon:g} and delta={delta:g} with {number:,} sums"
            )
    while high - low > _TOLERANCE * high and high > _LEAST:
        middle = (low + high) / 2
        low, high = (low, middle) if whole_cost(middle)[0] <= epsilon else (middle, high)
    high = max(high, _LEAST)
    return high if whole_cost(high)[1] > _FINE_BELOW else _refined(cost, epsilon, high)


def _refined(cost: Callable[[float], float], epsilon: float, enough: float) -> float:
    """Return a little less noise than `enough`, which costs no more than an epsilon: by secants, as few as will do."""
    target = epsilon * (1 - _TOLERANCE / 10)
    before, cost_before = enough, cost(enough)
    noise = enough * math.sqrt(max(cost_before, epsilon / 4) / epsilon)
    for _ in range(_MAX_SECANTS):
        if noise < _LEAST or abs(noise - before) <= _TOLERANCE / 10 * noise:
            break
        found = cost(noise)
        if found <= epsilon:
            enough = min(enough, noise)
        if not (found > 0 and cost_before > 0):
            break
        slope = (math.log(found) - math.log(cost_before)) / (math.log(noise) - math.log(before))
        if not slope < 0:
            break
        before, cost_before = noise, found
        noise = noise * math.exp((math.log(target) - math.log(found)) / slope)
    return enough
