"""A sketch of ranks as numbers that add: counts of both classes in bins of scores that are the same at every node.

A sketch (see `metrics.rank_sketch`) counts the examples of both classes in spans of scores. What the area under the ROC
curve and its bound are computed from is in how many examples of a class spans begin, and end, below each score; so it
is enough to add, for each bin, the positives and the negatives of the spans that begin in it, and of those that end in it. A
span counts as if it reached over all of its first and its last bin, which makes the bound larger, never wrong.

The spans are those that may leave a node: each has the fewest examples that its owner allows, or more, and so has every sum.

Bins of scores from 0 to 1, half of all, are narrow near both ends, for scores that are shares; a quarter is of scores below
0, and one of scores above 1, narrow around distances of 1 from there and ever wider.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fedjob.metrics.rank_sketch import LAST, Place, key_of

MOST_NUMBERS = 8192
"""Of one metric."""

_BINS = (512, 256, 128, 64, 32)


def bins_for(num_sketches: int) -> int:
    """Return the number of bins of each of so many sketches; 0 where there are too many of them to be added."""
    return next((bins for bins in _BINS if 4 * bins * num_sketches <= MOST_NUMBERS), 0)


def histograms_of(sketch: Sequence[Place], bins: int) -> list[list[int]]:
    """Return four counts by bin: positives by where their spans begin and end, and negatives likewise."""
    edges = _edges(bins)
    found = [[0] * bins for _ in range(4)]
    for low, high, ups, downs in sketch:
        first, last = bisect_right(edges, low) - 1, bisect_right(edges, high) - 1
        for row, (place, count) in zip(
            found, ((first, ups), (last, ups), (first, downs), (last, downs)), strict=True
        ):
            row[place] += count
    return found


def sketch_of_histograms(histograms: Sequence[Sequence[int]]) -> list[Place]:
    """Return a sketch with the area, and with the bound, that four counts by bin stand for.

    Which beginnings and ends belong together is not known, and does not matter: they are joined in their order.
    Counts that no sketches add up to, which a node could send, are left out.
    """
    edges = _edges(len(histograms[0]))
    counts: dict[tuple[int, int], list[int]] = {}
    for place, (begins, ends) in enumerate((histograms[:2], histograms[2:])):
        for first, last, number in _joined(begins, ends):
            span = (edges[min(first, last)], edges[max(first, last) + 1] - 1)
            counts.setdefault(span, [0, 0])[place] += number
    return [[low, high, *both] for (low, high), both in sorted(counts.items())]


def _joined(begins: Sequence[int], ends: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield `(first bin, last bin, number)` of spans, by joining beginnings to ends in their order."""
    left, others = list(ends), 0
    for first, number in enumerate(begins):
        while number > 0 and others < len(left):
            taken = min(number, left[others])
            if taken > 0:
                yield first, others, taken
                number -= taken
                left[others] -= taken
            if left[others] <= 0:
                others += 1


@lru_cache(maxsize=8)
def _edges(bins: int) -> list[int]:
    """Return the first number (see `rank_sketch`) of each bin, and one past the last."""
    quarter, half = bins // 4, bins // 2
    shares = [1 / (1 + math.exp(-2 * _spread(place / half))) for place in range(1, half)]
    far = [2.0 ** (4 * _spread(place / quarter)) for place in range(1, quarter)]
    scores = [*(-one for one in reversed(far)), 0.0, *shares, 1.0, *(1 + one for one in far)]
    return [0, *_rising(key_of(score) for score in scores), LAST + 1]


def _rising(keys: Iterator[int]) -> Iterator[int]:
    """Yield numbers, each above the one before: near 1, distances are smaller than what a double can tell apart."""
    before = 0
    for key in keys:
        before = max(key, before + 1)
        yield before


def _spread(place: float) -> float:
    """Return a number from minus to plus infinity for a place between 0 and 1."""
    way = 2 * place - 1
    return way / (1 - abs(way))
