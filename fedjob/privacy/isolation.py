"""The check that products of columns are not about few rows.

The sum of x times y, where x is 1 in three rows and 0 in all others, is the sum of y over these three; and whoever
gets the products of several columns can combine them. So products are released only where

- every column has its most frequent value in all rows, or another one in at least `min_rows` of them, and a column of
  two or three different values has each in at least `min_rows` rows: the sums tell how often each occurs;
- no combination of columns is 0 in all rows but one: that row would have a leverage of 1 (Hoaglin, Welsch
  1978, "The hat matrix in regression and ANOVA", https://doi.org/10.1080/00031305.1978.10479237).

The same holds for a plain sum: of a column of 0 and 1 it is a count. And sums weighted by a model, as in Newton's method,
are about as many rows as share the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedjob.privacy.releases import Floats

_ALONE = 1 - 1e-9

_ROUNDING = 1e-9
"""The part of a column's largest value by which conversions of units may round."""


def isolates(values: Floats, min_rows: int) -> bool:
    """Return whether products of these columns would be about fewer than `min_rows` rows.

    Args:
        values: of shape (rows, columns), without NaN.
        min_rows: 0 or 1 for no limit.
    """
    if min_rows <= 1 or not values.size:
        return False
    if any(marks_few(column, min_rows, moments=2) for column in values.T):
        return True
    return bool((_leverages(values) > _ALONE).any())


def marks_few(values: Floats, min_rows: int, *, moments: int) -> bool:
    """Return whether sums of these values are about fewer than `min_rows` rows, or count fewer.

    Args:
        values: of shape (rows,), without NaN.
        min_rows: 0 or 1 for no limit.
        moments: 1 for their sum, 2 for their sum and the sum of their squares.
    """
    if min_rows <= 1 or not len(values):
        return False
    _, counts = np.unique(values, return_counts=True)
    if len(counts) == 1:
        return False
    most = int(counts.max())
    if len(values) - most < min_rows and most >= max(2, len(values) / 10):
        return True
    return len(counts) <= moments + 1 and int(counts.min()) < min_rows


def differ_in_few(one: Floats, other: Floats, min_rows: int) -> bool:
    """Return whether one column is the other in other units, but for some rows that are fewer than `min_rows`.

    Args:
        one, other: of the same rows; NaN where a value is missing.
    """
    both = ~np.isnan(one) & ~np.isnan(other)
    one, other = one[both], other[both]
    steps = np.diff(one)
    moving = steps != 0
    if not moving.any():
        return False
    slope = float(np.median(np.diff(other)[moving] / steps[moving]))
    rest = other - slope * one
    rest = np.abs(rest - np.median(rest))
    number = int((rest > _ROUNDING * max(np.abs(other).max(), abs(slope) * np.abs(one).max())).sum())
    return slope != 0 and 0 < number < min(min_rows, len(one) / 2)


def dominated(weights: Floats, min_rows: int) -> bool:
    """Return whether a sum with these weights is in effect about few rows.

    The effective number of rows, the square of the sum of weights by the sum of their squares (Kish 1965, "Survey
    Sampling"), must be half of `min_rows`, or a quarter of all rows where there are fewer than twice as many.
    """
    sizes = np.abs(weights)
    largest = sizes.max(initial=0.0)
    if min_rows <= 1 or not largest > 0 or not np.isfinite(largest):
        return min_rows > 1 and not np.isfinite(largest)
    shares = sizes / largest
    effective = shares.sum() ** 2 / np.square(shares).sum()
    return bool(effective < min(min_rows / 2, len(weights) / 4))


MAX_POINTS = 1000
"""The most points at which a node with a minimum of rows answers with weighted sums of one kind of model."""

_SAME = 1e-12
"""Weights that differ by less, relative to the largest, differ by rounding."""


def few_weigh(here: Sequence[Floats], earlier: Iterable[Sequence[Floats]], min_rows: int) -> bool:
    """Return whether sums with these weights, or their differences from earlier ones, are in effect about few rows.

    Args:
        here: the weights of all rows in each sum.
        earlier: the same at each point that was answered before.
    """
    if any(dominated(weights, min_rows) for weights in here):
        return True
    for before in earlier:
        for now, then in zip(here, before, strict=True):
            moved = np.abs(now - then)
            if moved.max(initial=0.0) > _SAME * np.abs(now).max(initial=0.0) and dominated(moved, min_rows):
                return True
    return False


def _leverages(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    scales = np.abs(centred).max(axis=0)
    varying = centred[:, scales > 0] / scales[scales > 0]
    left, sizes, _ = np.linalg.svd(varying, full_matrices=False)
    kept = sizes > 1e-10 * sizes.max(initial=0.0)
    leverages: Floats = np.square(left[:, kept]).sum(axis=1) + 1 / len(values)
    return leverages
