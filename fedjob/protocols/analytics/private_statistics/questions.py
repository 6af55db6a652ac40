"""The sums that statistics consist of under differential privacy, and how much one record changes each.

Nothing about what is asked depends on the data: bounds of values and lists of categories come from the researcher. Values
count as the nearest bound where they lie outside, and as whole numbers on a grid of `2 GRID` steps between the
bounds. A record changes the number of one group and bin of a question, by its `sensitivity` at most; two datasets are
neighbours if one has a record more than the other.

    question          bins                            sensitivity
    present           with a value, without           1
    sum, squares      1                               GRID, GRID^2
    bins              below, each bin, above          1
    categories        each category                   1
    table             each combination                1
    tree              2^level equal parts             1             once for each of LEVELS levels
    complete          1                               1             rows with a value in all joint columns
    linear, product   1                               GRID, GRID^2  of each joint column, and of each pair
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.privacy.dp.sum_terms import SumTerms, sum_terms
from fedjob.privacy.protect import RecordDP
from fedjob.protocols.analytics.measures import MAX_GROUPS, Measures, together

GRID = 1 << 15
"""Whole numbers from the middle of the bounds to each of them."""

LEVELS = 8
"""Times that the tree of a quantile halves the bounds."""

PRESENT, SUM, SQUARES, BINS, CATEGORIES = "present", "sum", "squares", "bins", "categories"
TABLE, TREE, COMPLETE, LINEAR, PRODUCT = "table", "tree", "complete", "linear", "product"

SENSITIVITIES = (1, GRID, GRID * GRID)


@dataclass(frozen=True, slots=True)
class PrivateQuestion:
    """A sum in every group of rows, to which noise is added.

    Args:
        columns: that it is about.
        bins: numbers in a group.
        sensitivity: the most that one record changes one of all its numbers, while it changes no other.
        level: of a tree, from 1.
    """

    kind: str
    columns: tuple[str, ...]
    bins: int = 1
    sensitivity: int = 1
    level: int = 0


def questions_of(measures: Measures) -> list[PrivateQuestion]:
    """Return the sums that measures need, for all groups together `num_groups` times their bins.

    Raises:
        SpecError: a measure has no private form, or lacks bounds or categories.
    """
    _check_form(measures)
    found, cells = [], 0
    for question in _questions(measures):
        found.append(question)
        cells += num_groups(measures) * question.bins
        if cells > MAX_GROUPS:
            raise SpecError(
                f"these statistics are more than {MAX_GROUPS:,} numbers with noise: give fewer levels or columns"
            )
    return found


def num_groups(measures: Measures) -> int:
    """Return the number of groups, 1 without columns to group by."""
    return math.prod(len(measures.levels[name]) for name in measures.by)


def terms_of(measures: Measures, wanted: RecordDP, *, num_rows: int) -> SumTerms:
    """Divide a budget among the sums that measures need.

    Args:
        wanted: with the epsilon and delta that hold at this node.
        num_rows: of the dataset, as its owner registered it.

    Raises:
        SpecError: a measure has no private form, or its noise would leave nothing to be seen.
    """
    return sum_terms(
        epsilon=wanted.epsilon, delta=wanted.delta, number=len(questions_of(measures)), num_rows=num_rows
    )


def _questions(measures: Measures) -> Iterator[PrivateQuestion]:
    for name in measures.counted_columns:
        yield PrivateQuestion(PRESENT, (name,), 2)
    for name in measures.summed_columns:
        yield PrivateQuestion(SUM, (name,), 1, GRID)
    for name in measures.spread_columns:
        yield PrivateQuestion(SQUARES, (name,), 1, GRID * GRID)
    for name, edges in measures.histogram.items():
        yield PrivateQuestion(BINS, (name,), len(edges) + 1)
    for name in measures.categories:
        yield PrivateQuestion(CATEGORIES, (name,), len(measures.levels[name]))
    if measures.table:
        yield PrivateQuestion(
            TABLE, measures.table, math.prod(len(measures.levels[name]) for name in measures.table)
        )
    for name in measures.quantiles:
        for level in range(1, LEVELS + 1):
            yield PrivateQuestion(TREE, (name,), 1 << level, 1, level)
    if measures.joint_columns:
        yield PrivateQuestion(COMPLETE, measures.joint_columns)
        for name in measures.joint_columns:
            yield PrivateQuestion(LINEAR, (name,), 1, GRID)
        for pair in combinations_with_replacement(measures.joint_columns, 2):
            yield PrivateQuestion(PRODUCT, pair, 1, GRID * GRID)


def _check_form(measures: Measures) -> None:
    if extreme := together(measures.min, measures.max):
        raise SpecError(
            f"min and max of {shown(extreme[0])} are values of single records, which differential privacy never shows: ask "
            f"for quantiles={{{extreme[0]!r}: [0.05, 0.95]}} with bounds"
        )
    bounded = together(measures.summed_columns, tuple(measures.quantiles), measures.joint_columns)
    if lacking := [name for name in bounded if name not in measures.bounds]:
        raise SpecError(
            f"under differential privacy {shown(lacking[0])} needs bounds={{{lacking[0]!r}: (low, high)}}, from what is known "
            "of such values and not from these data: one record can change a sum without bounds by any amount"
        )
    sorted_by = together(measures.categories, measures.table, measures.by)
    if lacking := [name for name in sorted_by if name not in measures.levels]:
        raise SpecError(
            f"under differential privacy {shown(lacking[0])} needs levels={{{lacking[0]!r}: [...]}}, the categories to count: "
            "which ones occur is itself something about records"
        )
    for what, given, used in (("bounds", measures.bounds, bounded), ("levels", measures.levels, sorted_by)):
        if surplus := [name for name in given if name not in used]:
            raise SpecError(f"{what} names {shown(surplus[0])}, of which nothing is asked that needs {what}")
