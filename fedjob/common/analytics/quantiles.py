"""Order statistics found by counting: brackets on one fixed grid, halved alike for every column and every job.

The first grid are the powers of two, negative ones too; a bracket between two neighbours is
then divided into equal parts again and again. All edges that anybody ever asks for are
nested, so that counts below one edge never cut rows off those below another in a new place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

PARTS = 64
"""Parts that a bracket is divided into by one ask."""

_POWERS = [math.ldexp(1.0, exponent) for exponent in range(-64, 129)]

FIRST_EDGES: tuple[float, ...] = (*(-power for power in reversed(_POWERS)), 0.0, *_POWERS)
"""Edges of the first ask; numbers of 2**128 and more in size are outside."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """Where an order statistic lies.

    Args:
        rank: from 0.
        low, high: it is at least `low` and below `high`.
        parts: into how many parts the bracket can be divided; 0 where it is as narrow as it gets.
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
        """How far off the value is at most."""
        return self.high - self.low


def steps_for(precision: float) -> int:
    """Return how many asks narrow a bracket between powers of two to this fraction of its value."""
    return max(0, math.ceil(math.log2(1 / precision) / math.log2(PARTS)))


def edges_within(low: float, high: float) -> list[float]:
    """Return the edges that divide a bracket."""
    if math.isinf(low):
        return list(FIRST_EDGES)
    width = (high - low) / PARTS
    return [low + width * part for part in range(PARTS)] + [high]


def narrowed(bracket: Bracket, edges: Sequence[float], least: Sequence[int], most: Sequence[int]) -> Bracket:
    """Return a bracket after counting below the edges that divide it.

    Args:
        least, most: bounds on how many values lie below each edge; they differ where nodes withheld counts.
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
    """Return the two ranks that a quantile lies between, and how far on its way (numpy's `linear`)."""
    place = fraction * (count - 1)
    lower = math.floor(place)
    return lower, min(lower + 1, count - 1), place - lower
