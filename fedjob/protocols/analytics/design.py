"""The design matrix of a model: its columns as numbers, with the same terms at every node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjob.common.errors import Unsolvable
from fedjob.privacy.isolation import isolates, marks_few
from fedjob.privacy.releases import Floats, Release, Rows
from fedjob.protocols.analytics.table import (
    AuditedTable,
    by_value,
    categories,
    in_order,
    need_columns,
    numbers,
)

INTERCEPT = "intercept"


@dataclass(frozen=True, slots=True)
class Design:
    """The columns of a model, and their terms.

    A term is one column of numbers in the matrix. A feature of numbers is one term; a
    feature of categories is one term for each category but the first, the reference.

    Args:
        features: the explaining columns, in their order.
        levels: feature -> its categories, in order, for the features that are categories.
        means, scales: of the terms, by which they are centred and scaled; empty before they are known.
        intercept: whether the first column of the matrix is one of ones.
    """

    features: tuple[str, ...]
    levels: Mapping[str, Sequence[str]]
    means: Sequence[float] = ()
    scales: Sequence[float] = ()
    intercept: bool = False

    @property
    def terms(self) -> list[str]:
        """The names of the terms, without the intercept: `cp=4` is 1 where `cp` is 4."""
        return [
            term
            for name in self.features
            for term in (
                [f"{name}={level}" for level in self.levels[name][1:]] if name in self.levels else [name]
            )
        ]

    def values(self, table: AuditedTable) -> Floats:
        """Return the terms, of shape (rows, terms).

        A row is all NaN where a value is missing, or is a category that is not among the levels.
        """
        node, frame = table.node, table.frame
        parts = [np.empty((len(frame), 0))]
        known = np.ones(len(frame), dtype=bool)
        for name in self.features:
            if name in self.levels:
                texts = categories(node, frame, name)
                part = np.column_stack([texts == level for level in self.levels[name]])
                known &= part.any(axis=1)
                parts.append(part[:, 1:].astype(np.float64))
            else:
                parts.append(numbers(node, frame, name)[:, None])
                known &= ~np.isnan(parts[-1][:, 0])
        values = np.hstack(parts)
        values[~known] = np.nan
        return values

    def off_base(self, values: Floats) -> Floats:
        """Return a column for each feature of categories: 1 where the category is not the reference."""
        found, place = [np.empty((len(values), 0))], 0
        for name in self.features:
            size = len(self.levels[name]) - 1 if name in self.levels else 1
            if name in self.levels:
                found.append(values[:, place : place + size].sum(axis=1, keepdims=True))
            place += size
        return np.hstack(found)

    def matrix(self, values: Floats) -> Floats:
        """Return the terms, centred and scaled, after a column of ones where there is an intercept."""
        scaled = (values - np.asarray(self.means)) / np.asarray(self.scales)
        return np.hstack([np.ones((len(values), 1)), scaled]) if self.intercept else scaled

    def in_their_units(self, found: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Return coefficients and their covariance for the unscaled terms, from those for the scaled ones."""
        scales, means = np.asarray(self.scales), np.asarray(self.means)
        back = np.diag(1 / scales)
        if self.intercept:
            size = len(scales)
            back = np.block([[np.ones((1, 1)), -(means / scales)[None]], [np.zeros((size, 1)), back]])
        return back @ found, back @ covariance @ back.T


def released_levels(table: AuditedTable, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return column -> category -> number of rows, for the categories that may be released."""
    released: dict[str, dict[str, int]] = {}
    for name in names:
        found = by_value(categories(table.node, table.frame, name), table.all_rows)
        present = np.concatenate([*found.values(), np.empty(0, dtype=np.int64)]).astype(np.int64)
        missing = np.setdiff1d(table.all_rows, present)
        allowed = table.admit([Release(rows, excused=missing) for rows in found.values()])
        released[name] = {
            text: len(rows) for (text, rows), may in zip(found.items(), allowed, strict=True) if may
        }
    return released


def all_levels(released: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, list[str]]:
    """Return column -> the categories that any node released, in order.

    Raises:
        Unsolvable: a column has none.
    """
    for name in names:
        if not released.get(name):
            raise Unsolvable(f"column {name!r} has no category that a node may release")
    return {name: sorted(released[name], key=in_order) for name in names}


def complete_rows(
    table: AuditedTable, design: Design, outcomes: Sequence[str], *, products: bool
) -> tuple[Rows, Floats, Floats]:
    """Return the positions of the rows in which no value is missing, their terms and their outcomes.

    Args:
        products: whether products of these columns are released, and not their sums alone.

    Raises:
        NodeFailure: with reason `columns`: a column is missing or holds no numbers; with reason `min_rows`: sums
            over these rows may not be released.
    """
    names = (*design.features, *outcomes)
    need_columns(table.node, table.frame, names)
    values = design.values(table)
    others = np.column_stack(
        [np.empty((len(values), 0)), *(numbers(table.node, table.frame, name) for name in outcomes)]
    )
    used = np.flatnonzero(~np.isnan(np.hstack([values, others])).any(axis=1))
    table.need(Release(table.all_rows, names, used), "the sums of this model")
    everything = np.hstack([values[used], others[used], design.off_base(values[used])])
    if products and isolates(everything, table.min_rows):
        raise table.withheld("products of these columns")
    if any(marks_few(column, table.min_rows, moments=2) for column in everything.T):
        raise table.withheld("sums of these columns, of which one marks few rows,")
    if not table.may_sum([name for name in names if name not in design.levels]):
        raise table.withheld("sums of these columns, of which one differs in few rows from another,")
    return used, values[used], others[used]


def sums_of(values: Floats, about: Sequence[float] | None = None) -> dict[str, Any]:
    """Return the number of rows, and the sums and sums of squares of columns, from which means and scales follow.

    Args:
        about: subtracted from each column first; None for nothing.
    """
    if about is not None:
        values = values - np.asarray(about)
    return {
        "count": len(values),
        "linear": values.sum(axis=0).tolist(),
        "squares": np.square(values).sum(axis=0).tolist(),
    }


_FAR = 1e-8
"""The share of a variance in the mean of squares below which half of its digits, or more, are lost."""


def far_means(sums: Mapping[str, Any]) -> list[float]:
    """Return the means of all columns if one lies far from zero for its spread, as that of times does; else none.

    The variance is then lost in the difference of two large numbers, and is to be summed about the mean
    (Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115).
    """
    count = sums["count"]
    if count < 2:
        return []
    means = [linear / count for linear in sums["linear"]]
    far = [
        squares / count - mean * mean < _FAR * squares / count
        for mean, squares in zip(means, sums["squares"], strict=True)
    ]
    return means if any(far) else []


def scaled(design: Design, sums: Mapping[str, Any], *, centred: bool) -> Design:
    """Return the design with the means and scales that follow from the sums of all nodes.

    Raises:
        Unsolvable: there are too few complete rows, or a term is the same in all of them.
    """
    count, terms = sums["count"], design.terms
    if count < 2:
        raise Unsolvable(
            f"{count} rows of all nodes together have a value in every column; expected 2 or more"
        )
    means, scales = [], []
    abouts = sums.get("about") or [0.0] * len(terms)
    for term, linear, squares, about in zip(terms, sums["linear"], sums["squares"], abouts, strict=True):
        mean = linear / count
        variance = squares / count - mean * mean
        if centred and variance <= 1e-14 * squares / count:
            raise Unsolvable(
                f"{term} has the same value in all {count} complete rows: its effect can't be separated from the "
                "intercept; leave it out"
            )
        means.append(about + mean if centred else 0.0)
        scales.append(math.sqrt(max(variance, 0.0)) if centred else math.sqrt(squares / count) or 1.0)
    return Design(design.features, design.levels, means, scales, design.intercept)
