"""Sorting a few rows against each other, place by place, by a network of comparators.

Batcher 1968, "Sorting networks and their applications", merge exchange as in
Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M,
https://dl.acm.org/doi/10.1145/1468075.1468121. Each comparator is a minimum
and a maximum of two whole rows, so sixteen contributions are sorted in some
sixty vector operations, exactly; ranks that are not needed are not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def sorted_rows(rows: torch.Tensor, first: int, end: int) -> list[torch.Tensor]:
    """Return ranks `first` up to `end` of each place, smallest first.

    Args:
        rows: (contributions, places), any dtype that compares, no NaN; overwritten.
        first, end: `0 <= first < end <= contributions`.

    Returns:
        `end - first` tensors of (places,).
    """
    import torch

    found = list(rows.unbind())
    spare = torch.empty_like(found[0])
    for low, high, keep_low, keep_high in _comparators(len(found), first, end):
        a, b = found[low], found[high]
        if keep_low:
            torch.minimum(a, b, out=spare)
        if keep_high:
            torch.maximum(a, b, out=b)
        if keep_low:
            found[low], spare = spare, a
    return found[first:end]


@cache
def _comparators(count: int, first: int, end: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Return the comparators that ranks `first` up to `end` depend on, with the outputs that count."""
    needed = set(range(first, end))
    kept = []
    for low, high in reversed(list(_network(count))):
        outputs = low in needed, high in needed
        if any(outputs):
            kept.append((low, high, *outputs))
            needed |= {low, high}
    return tuple(reversed(kept))


def _network(count: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top if count > 1 else 0
    while p:
        q, r, distance = top, 0, p
        while True:
            yield from ((i, i + distance) for i in range(count - distance) if i & p == r)
            if q == p:
                break
            distance, q, r = q - p, q >> 1, p
        p >>= 1


def median_of_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the median of each place of (contributions, places); `rows` is overwritten."""
    import torch

    middle = sorted_rows(rows, (len(rows) - 1) // 2, len(rows) // 2 + 1)
    if len(middle) == 1:
        return middle[0]
    low, high = (row.to(torch.float64) for row in middle)
    # halved before they are added: the sum of two large numbers would be infinite
    return (low * 0.5 + high * 0.5).clamp_(low, high)
