"""Order statistics found by counting values below the edges of one fixed grid.

The edges of the first ask are the powers of two and their negatives. The bracket between two
neighbouring edges that holds the order statistic is then divided into equal parts, again and
again, in the same way for every column and every job. So all edges are nested, and the counts
of different asks do not differ by new small groups of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

PARTS = 64
"""Number of parts into which one ask divides a bracket."""

_POWERS = [math.ldexp(1.0, exponent) for exponent in range(-64, 129)]

FIRST_EDGES: tuple[float, ...] = (*(-power for power in reversed(_POWERS)), 0.0, *_POWERS)
"""Edges of the first ask; numbers of absolute value 2**128 and more are outside."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """An interval that holds an order statistic.

    Args:
        rank: of the order statistic, from 0.
        low, high: the order statistic is at least `low` and below `high`.
        parts: the number of parts into which the bracket can be divided; 0 where it can't get narrower.
    """

    rank: int
    low: float = -math.inf
    high: float = math.inf
    parts: int = PARTS

    @property
    def value(self) -> float:
        """The shortest decimal number in the bracket."""
        if math.isinf(self.low) or math.isinf(self.high):
            return math.nan
        middle = self.low + (self.high - self.low) / 2
        for digits in range(-30, 18):
            short = round(middle, digits)
            if self.low <= short < self.high:
                return short
        return self.low

    @property
    def width(self) -> float:
        """The largest possible error of `value`."""
        return self.high - self.low


def steps_for(precision: float) -> int:
    """Return the number of asks that narrow a bracket between powers of two to this fraction of its value."""
    return max(0, math.ceil(math.log2(1 / precision) / math.log2(PARTS)))


def edges_within(low: float, high: float) -> list[float]:
    """Return the edges that divide a bracket."""
    if math.isinf(low):
        return list(FIRST_EDGES)
    width = (high - low) / PARTS
    return [low + width * part for part in range(PARTS)] + [high]


def narrowed(bracket: Bracket, edges: Sequence[float], least: Sequence[int], most: Sequence[int]) -> Bracket:
    """Return the narrower bracket that follows from the counts of values below the edges that divide it.

    Args:
        least, most: bounds on the number of values below each edge; they differ where nodes withheld counts.
    """
    if not bracket.parts:
        return bracket
    below = [place for place in range(len(edges)) if most[place] <= bracket.rank]
    above = [place for place in range(len(edges)) if least[place] > bracket.rank]
    if not below or not above:
        return replace(bracket, parts=0)
    first, last = below[-1], above[0]
    neighbours = last == first + 1
    return replace(bracket, low=edges[first], high=edges[last], parts=PARTS if neighbours else 0)


def ranks_of(fraction: float, count: int) -> tuple[int, int, float]:
    """Return the two ranks between which a quantile lies, and its position between them, from 0 to 1.

    This is the method `linear` of `numpy.quantile`.
    """
    place = fraction * (count - 1)
    lower = math.floor(place)
    return lower, min(lower + 1, count - 1), place - lower
