"""The least noise that keeps a promise of differential privacy."""

from __future__ import annotations

from functools import lru_cache

from fedjob.common.errors import SpecError
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of

MAX_NOISE = 1e7
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

    def cost(noise: float) -> float:
        return cost_of([Gaussian(noise=noise, rate=rate, number=number)], delta)

    low, high = 0.0, 1.0
    while cost(high) > epsilon:
        low, high = high, 2 * high
        if high > MAX_NOISE:
            raise SpecError(
                f"no noise is enough for epsilon={epsilon:g} and delta={delta:g} with {number:,} sums"
            )
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        if middle < 0.05:  # below, the bounds say nothing that one would rely on
            break
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high
