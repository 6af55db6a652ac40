"""The randomness of differential privacy: numbers that nobody can foretell, with no trace of what they are added to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

GRID_BITS = 20
"""A noisy sum is rounded to this many bits below its noise."""

_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class SecureDraws:
    """Draws of samples and of noise from the operating system's randomness.

    Two measures stand against the attack on floating-point noise of Jin et al. 2022,
    https://arxiv.org/abs/2112.05307, which tells what noise was added to from the low bits of a sum. Each number is the
    sum of two independent draws over sqrt(2), as Holohan and Braghin 2021 have it, https://arxiv.org/abs/2107.10138
    (and Opacus' `secure_mode`), and a noisy sum is rounded to a grid of 2^-20 of the noise, so that its low bits do
    not leave: between two points of the grid lie some 2^30 numbers that a draw can give.

    Args:
        source: returns so many random bytes; another one than the operating system's is for tests.
    """

    source: Callable[[int], bytes] = os.urandom

    def uniform(self, count: int) -> Floats:
        """Return float64 numbers from 0 to below 1, multiples of 2^-53."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def chosen(self, rows: np.ndarray[Any, Any], rate: float) -> np.ndarray[Any, Any]:
        """Return the rows of a Poisson sample: each with probability `rate`, whichever others are in it."""
        return rows[self.uniform(len(rows)) < rate]

    def normal(self, count: int) -> Floats:
        """Return float64 numbers of the standard normal distribution (Box and Muller 1958), independent of each other."""
        found = np.empty(count)
        for start in range(0, count, _AT_ONCE):
            part = found[start : start + _AT_ONCE]
            pairs = len(part) + 1
            radius = np.sqrt(-2.0 * np.log((self._words(pairs).astype(np.float64) + 1.0) * 2.0**-64))
            angle = self.uniform(pairs) * (2.0 * math.pi)
            part[:] = (radius[:-1] * np.cos(angle[:-1]) + radius[1:] * np.sin(angle[1:])) * math.sqrt(0.5)
        return found

    def noisy(self, total: Floats, deviation: float) -> Floats:
        """Return a sum with Gaussian noise of a standard deviation, above 0, rounded to the grid."""
        return rounded(total + deviation * self.normal(len(total)), deviation)

    def seed(self) -> int:
        """Return a seed of 63 bits for generators that user code draws from, such as those of dropout."""
        return int.from_bytes(self.source(8), "little") >> 1

    def _words(self, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.frombuffer(self.source(8 * count), dtype="<u8")


def rounded(noisy: Floats, deviation: float) -> Floats:
    """Return a noisy sum, rounded to the grid of noise of a standard deviation, above 0."""
    step = 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)
    found: Floats = np.round(noisy / step) * step
    return found
