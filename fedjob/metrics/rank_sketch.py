"""A sketch of the ranks of scores of two classes: it adds, and bounds the area under the ROC curve.

Shrivastava, Buragohain, Agrawal, Suri 2004, "Medians and beyond: new aggregation techniques for sensor
networks" (the q-digest), https://doi.org/10.1145/1031495.1031524

Every double stands for a whole number of 64 bits with the same order. A sketch counts the examples of both classes in
spans of these numbers: of one number each, as long as there are few different scores, so that the area is exact. If
there are many, the numbers are the leaves of one binary tree, the same at every node, and the spans its subtrees, which
divide wherever most examples are. So the range of the scores does not matter, nor how close they are to each
other. Before a sketch leaves a node, spans with few examples are joined to their neighbours (`coarsened`).

Two examples are ranked wrongly at most if their spans are the same, or overlap.
"""

from __future__ import annotations

import heapq
import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LAST = 2**64 - 1
"""The largest number that a score can stand for."""

Place = list[int]
"""`[low, high, ups, downs]`: the first and the last number of a span, and the positives and negatives in it."""


def key_of(score: float) -> int:
    """Return the whole number of 64 bits that a score stands for."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", score + 0.0))  # -0.0 becomes 0.0
    return int(~bits & LAST if bits >> 63 else bits | 1 << 63)


def sketch_of(scores: np.ndarray, positive: np.ndarray) -> list[Place]:
    """Return the counts of every different score, in their order.

    Args:
        scores: float64 of shape (n,), without NaN.
        positive: bool of shape (n,).
    """
    import numpy as np

    bits = (np.asarray(scores, dtype=np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    top = np.uint64(1 << 63)
    keys = np.where(bits & top, ~bits, bits | top)
    found, where = np.unique(keys, return_inverse=True)
    ups = np.bincount(where[positive], minlength=len(found))
    downs = np.bincount(where[~positive], minlength=len(found))
    return [[*row] for row in zip(found.tolist(), found.tolist(), ups.tolist(), downs.tolist(), strict=True)]


def joined(a: Sequence[Place], b: Sequence[Place]) -> list[Place]:
    """Return the counts of two sketches, both in order."""
    larger, smaller = (a, b) if len(a) >= len(b) else (b, a)
    total = list(larger)
    for low, high, ups, downs in smaller:
        at = bisect_left(total, [low, high])
        if at < len(total) and total[at][:2] == [low, high]:
            total[at] = [low, high, total[at][2] + ups, total[at][3] + downs]
        else:
            total.insert(at, [low, high, ups, downs])
    return total


def reduced(places: Sequence[Place], limit: int) -> list[Place]:
    """Return a sketch of at most `limit` places: the subtrees with the most examples are divided first.

    Args:
        places: in order; those that are few enough stay as they are.
        limit: 3 or more.
    """
    if len(places) <= limit:
        return [list(place) for place in places]
    spans: list[tuple[int, int, Sequence[Place]]] = [(-_count(places), 0, places)]
    whole: list[Place] = []
    number = 0
    while spans and len(spans) + len(whole) + 2 <= limit:
        _, _, largest = heapq.heappop(spans)
        for part in _parts(largest):
            number += 1
            if len(part) == 1 or len(part) == len(largest):
                whole.append(_together(part))
            else:
                heapq.heappush(spans, (-_count(part), number, part))
    return sorted([*whole, *(_together(span) for _, _, span in spans)])


def coarsened(places: Sequence[Place], least: int) -> list[Place]:
    """Return a sketch that counts at least `least` examples in each span, or all in one where there are fewer.

    Neighbours are counted together until they are enough. Where one span ends and the next begins follows from no
    score exactly: it is the number between them with the shortest binary fraction.

    Args:
        places: in order.
    """
    groups: list[list[Place]] = []
    for place in places:
        if groups and _count(groups[-1]) < least:
            groups[-1].append(place)
        else:
            groups.append([place])
    if len(groups) > 1 and _count(groups[-1]) < least:
        last = groups.pop()
        groups[-1].extend(last)
    found, low = [], 0
    for group, after in zip(groups, [*groups[1:], None], strict=True):
        end = max(place[1] for place in group)
        edge = LAST + 1 if after is None else _between(end, after[0][0])
        span = group[0][:2] if len(group) == 1 else [min(low, group[0][0]), max(edge - 1, end)]
        found.append([*span, sum(place[2] for place in group), sum(place[3] for place in group)])
        low = edge
    return sorted(found)


def _between(low: int, high: int) -> int:
    """Return the number above `low` and up to `high` with the most zeros at its end; `high` where there is none."""
    if low >= high:
        return high
    place = (low ^ high).bit_length() - 1
    return (high >> place) << place


def _count(places: Sequence[Place]) -> int:
    return sum(place[2] + place[3] for place in places)


def _parts(places: Sequence[Place]) -> list[list[Place]]:
    """Divide two places or more: what lies across the middle of their smallest subtree, its left and its right half."""
    first, last = _root(places)
    middle = first + (last - first + 1) // 2
    across = [place for place in places if place[0] < middle <= place[1]]
    left = [place for place in places if place[1] < middle]
    right = [place for place in places if place[0] >= middle]
    return [part for part in (across, left, right) if part]


def _root(places: Sequence[Place]) -> tuple[int, int]:
    """Return the smallest subtree that holds these places: its first and its last leaf."""
    low, high = min(place[0] for place in places), max(place[1] for place in places)
    height = (low ^ high).bit_length()
    return (low >> height) << height, high | ((1 << height) - 1)


def _together(places: Sequence[Place]) -> Place:
    if len(places) == 1:
        return list(places[0])
    return [*_root(places), sum(place[2] for place in places), sum(place[3] for place in places)]


def area(places: Sequence[Place]) -> tuple[float, float]:
    """Return the area under the ROC curve and the most that it can be off; NaN where a class is missing.

    Args:
        places: in order.
    """
    positives = sum(place[2] for place in places)
    negatives = sum(place[3] for place in places)
    if not positives or not negatives:
        return math.nan, math.nan
    lows, below = _running((low, downs) for low, _, _, downs in places)
    highs, above = _running((high, downs) for _, high, _, downs in places)
    tied = sum(ups * downs for low, high, ups, downs in places if low == high)
    ordered = reverse = 0
    for low, high, ups, _ in places:
        ordered += ups * above[bisect_left(highs, low)]
        reverse += ups * (negatives - below[bisect_right(lows, high)])
    pairs = positives * negatives
    unknown = pairs - ordered - reverse - tied
    return (ordered + (tied + unknown) / 2) / pairs, unknown / 2 / pairs


def _running(counted: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return the numbers in order, and how many negatives there are before each of them and in all."""
    numbers, sums = [], [0]
    for number, downs in sorted(counted):
        numbers.append(number)
        sums.append(sums[-1] + downs)
    return numbers, sums
