"""A sketch of the ranks of scores of two classes: it adds, and bounds the area under the ROC curve.

Shrivastava, Buragohain, Agrawal, Suri 2004, "Medians and beyond: new aggregation techniques for sensor
networks" (the q-digest), https://doi.org/10.1145/1031495.1031524

Every double stands for a whole number of 64 bits with the same order. The numbers are the leaves of one binary tree,
the same at every node. A sketch counts the examples of both classes at places of that tree: at leaves, as
long as there are few different scores, so that the area is exact; else in subtrees that divide wherever most
examples are. So the range of the scores does not matter, nor how close they are to each other.

Two examples are ranked wrongly at most if their places are the same subtree, or one lies in the other.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LEAF = 64
"""The depth of a single score in the tree."""

Place = list[int]
"""`[first, depth, ups, downs]`: a subtree by its first leaf and its depth, and the positives and negatives there."""


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
    return [
        [*row] for row in zip(found.tolist(), [LEAF] * len(found), ups.tolist(), downs.tolist(), strict=True)
    ]


def joined(a: Sequence[Place], b: Sequence[Place]) -> list[Place]:
    """Return the counts of two sketches, both in order."""
    larger, smaller = (a, b) if len(a) >= len(b) else (b, a)
    total = list(larger)
    for first, depth, ups, downs in smaller:
        at = bisect_left(total, [first, depth])
        if at < len(total) and total[at][:2] == [first, depth]:
            total[at] = [first, depth, total[at][2] + ups, total[at][3] + downs]
        else:
            total.insert(at, [first, depth, ups, downs])
    return total


def reduced(places: Sequence[Place], limit: int) -> list[Place]:
    """Return a sketch of at most `limit` places: the subtrees with the most examples are divided first.

    Args:
        places: in order; those that are few enough stay as they are.
        limit: 3 or more.
    """
    if len(places) <= limit:
        return [list(place) for place in places]
    before = [0]
    for _, _, ups, downs in places:
        before.append(before[-1] + ups + downs)
    spans = [(-before[-1], 0, len(places))]
    whole: list[tuple[int, int]] = []
    while spans and len(spans) + len(whole) + 2 <= limit:
        _, start, end = heapq.heappop(spans)
        for low, high in _parts(places, start, end):
            if high - low == 1:
                whole.append((low, high))
            else:
                heapq.heappush(spans, (before[low] - before[high], low, high))
    return [_together(places[low:high]) for low, high in sorted([*whole, *(span[1:] for span in spans)])]


def _parts(places: Sequence[Place], start: int, end: int) -> list[tuple[int, int]]:
    """Divide two places or more: what stands at the root of their smallest subtree, its left and its right half."""
    first, depth = _root(places[start], places[end - 1])
    own = start + (places[start][:2] == [first, depth])
    middle = first + (1 << (LEAF - 1 - depth))
    split = bisect_left(places, middle, own, end, key=lambda place: place[0])
    return [(low, high) for low, high in ((start, own), (own, split), (split, end)) if low < high]


def _root(a: Place, b: Place) -> tuple[int, int]:
    """Return the smallest subtree that holds two: its first leaf and its depth."""
    depth = min(a[1], b[1], LEAF - (a[0] ^ b[0]).bit_length())
    left = LEAF - depth
    return (a[0] >> left) << left, depth


def _together(places: Sequence[Place]) -> Place:
    first, depth = _root(places[0], places[-1])
    return [first, depth, sum(place[2] for place in places), sum(place[3] for place in places)]


def area(places: Sequence[Place]) -> tuple[float, float]:
    """Return the area under the ROC curve and the most that it can be off; NaN where a class is missing.

    Args:
        places: in order.
    """
    positives = sum(place[2] for place in places)
    negatives = sum(place[3] for place in places)
    if not positives or not negatives:
        return math.nan, math.nan
    ordered = tied = unknown = below = ups_around = downs_around = 0
    around: list[Place] = []
    for first, depth, ups, downs in places:
        while around and first >> (LEAF - around[-1][1]) != around[-1][0] >> (LEAF - around[-1][1]):
            _, _, ups_above, downs_above = around.pop()
            ups_around, downs_around = ups_around - ups_above, downs_around - downs_above
        ordered += ups * (below - downs_around)
        unknown += ups * downs_around + downs * ups_around
        if depth == LEAF:
            tied += ups * downs
        else:
            unknown += ups * downs
            around.append([first, depth, ups, downs])
            ups_around, downs_around = ups_around + ups, downs_around + downs
        below += downs
    pairs = positives * negatives
    return (ordered + (tied + unknown) / 2) / pairs, unknown / 2 / pairs
