"""The columns of a model as a matrix of numbers, the same at every node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjob.common.analytics.columns import by_value, categories, in_order, need_columns, numbers
from fedjob.common.analytics.isolation import isolates
from fedjob.common.analytics.releases import Floats, Rows, Telling
from fedjob.common.analytics.table import Table
from fedjob.common.errors import Unsolvable

INTERCEPT = "intercept"


@dataclass(frozen=True, slots=True)
class Design:
    """Which columns a model has.

    Args:
        features: in their order.
        levels: of those that are categories, in order; the first is what the others are held against.
        means, scales: of the terms; empty before they are known.
        intercept: a column of ones comes first.
    """

    features: tuple[str, ...]
    levels: Mapping[str, Sequence[str]]
    means: Sequence[float] = ()
    scales: Sequence[float] = ()
    intercept: bool = False

    @property
    def terms(self) -> list[str]:
        """The names of the columns of numbers, without the intercept: `cp=4` is 1 where `cp` is 4."""
        return [
            term
            for name in self.features
            for term in (
                [f"{name}={level}" for level in self.levels[name][1:]] if name in self.levels else [name]
            )
        ]

    def values(self, table: Table) -> Floats:
        """Return the terms, of shape (rows, terms); all NaN in rows where a value is missing, or no level of these."""
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
        """Return a column for each feature of categories: 1 where it is not the one that others are held against."""
        found, place = [np.empty((len(values), 0))], 0
        for name in self.features:
            size = len(self.levels[name]) - 1 if name in self.levels else 1
            if name in self.levels:
                found.append(values[:, place : place + size].sum(axis=1, keepdims=True))
            place += size
        return np.hstack(found)

    def matrix(self, values: Floats) -> Floats:
        """Return terms that are centred and scaled, behind a column of ones where there is an intercept."""
        scaled = (values - np.asarray(self.means)) / np.asarray(self.scales)
        return np.hstack([np.ones((len(values), 1)), scaled]) if self.intercept else scaled

    def in_their_units(self, found: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Return coefficients and their covariance for the terms as they are, from those for the scaled ones."""
        scales, means = np.asarray(self.scales), np.asarray(self.means)
        back = np.diag(1 / scales)
        if self.intercept:
            size = len(scales)
            back = np.block([[np.ones((1, 1)), -(means / scales)[None]], [np.zeros((size, 1)), back]])
        return back @ found, back @ covariance @ back.T


def told_levels(table: Table, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how often each category occurs, of those that may be told."""
    told: dict[str, dict[str, int]] = {}
    for name in names:
        found = by_value(categories(table.node, table.frame, name), table.all_rows)
        present = np.concatenate([*found.values(), np.empty(0, dtype=np.int64)]).astype(np.int64)
        missing = np.setdiff1d(table.all_rows, present)
        allowed = table.admit([Telling(rows, excused=missing) for rows in found.values()])
        told[name] = {
            text: len(rows) for (text, rows), may in zip(found.items(), allowed, strict=True) if may
        }
    return told


def all_levels(told: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the categories that any node told of, in order.

    Raises:
        Unsolvable: there are none.
    """
    for name in names:
        if not told.get(name):
            raise Unsolvable(f"column {name!r} has no category that a node may tell of")
    return {name: sorted(told[name], key=in_order) for name in names}


def complete_rows(
    table: Table, design: Design, outcomes: Sequence[str], *, products: bool
) -> tuple[Rows, Floats, Floats]:
    """Return the rows where nothing is missing, their terms and their outcomes.

    Args:
        products: of these columns are told, not their sums alone.

    Raises:
        NodeFailure: `columns`, one is not there or no numbers; `min_rows`, too few may be told of.
    """
    names = (*design.features, *outcomes)
    need_columns(table.node, table.frame, names)
    values = design.values(table)
    others = np.column_stack(
        [np.empty((len(values), 0)), *(numbers(table.node, table.frame, name) for name in outcomes)]
    )
    used = np.flatnonzero(~np.isnan(np.hstack([values, others])).any(axis=1))
    table.need(Telling(table.all_rows, names, used), "the sums of this model")
    everything = np.hstack([values[used], others[used], design.off_base(values[used])])
    if products and isolates(everything, table.min_rows):
        raise table.withheld("products of these columns")
    return used, values[used], others[used]


def sums_of(values: Floats) -> dict[str, Any]:
    """Return number, sums and sums of squares, for means and scales."""
    return {
        "count": len(values),
        "linear": values.sum(axis=0).tolist(),
        "squares": np.square(values).sum(axis=0).tolist(),
    }


def scaled(design: Design, sums: Mapping[str, Any], *, centred: bool) -> Design:
    """Return the design with the means and scales that follow from the sums of all nodes.

    Raises:
        Unsolvable: there are too few complete rows, or a term is the same in all of them.
    """
    count, terms = sums["count"], design.terms
    if count < 2:
        raise Unsolvable(f"{count} rows of all nodes together have a value in every column; 2 are the least")
    means, scales = [], []
    for term, linear, squares in zip(terms, sums["linear"], sums["squares"], strict=True):
        mean = linear / count
        variance = squares / count - mean * mean
        if centred and variance <= 1e-14 * squares / count:
            raise Unsolvable(
                f"{term} has the same value in all {count} complete rows: it can't be told apart from the "
                "intercept; leave it out"
            )
        means.append(mean if centred else 0.0)
        scales.append(math.sqrt(max(variance, 0.0)) if centred else math.sqrt(squares / count) or 1.0)
    return Design(design.features, design.levels, means, scales, design.intercept)
