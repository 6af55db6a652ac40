"""The tables of private statistics, in which every number has the standard deviation of its noise beside it.

What follows from noisy numbers tells no more than these. So counts below 0 are 0, means lie between the bounds, variances are
not negative, counts along a quantile's parts do not fall, and covariances have no negative eigenvalue; the noise beside a
number is that before it was moved there. Noise of means, variances and correlations is of the first order, right where
it is small by the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.measures import Measures
from fedjob.protocols.analytics.private_statistics.questions import (
    BINS,
    CATEGORIES,
    COMPLETE,
    LEVELS,
    LINEAR,
    PRESENT,
    PRODUCT,
    SENSITIVITIES,
    SQUARES,
    SUM,
    TABLE,
    TREE,
    num_groups,
    questions_of,
)
from fedjob.protocols.analytics.table import category_value
from fedjob.protocols.analytics.tables import labelled_frame

if TYPE_CHECKING:
    import pandas as pd

NOISE = "noise"
"""The column with the standard deviation of a number's noise, and what other names of such columns end in."""

_WIDE = 1.959963984540054
"""Standard deviations on each side of a number that make an interval of 95 %."""


def noisy_report(
    measures: Measures, sums: Sequence[Sequence[float]], variances: Sequence[float]
) -> dict[str, Any]:
    """Return the tables that were asked for, from the sums of all nodes.

    Args:
        sums: the numbers of each question by its sensitivity.
        variances: of the noise on these, for each of `SENSITIVITIES`.
    """
    found = _NoisyNumbers(measures, sums, variances)
    report: dict[str, Any] = {}
    if measures.counted_columns:
        report["columns"] = found.column_table()
    if measures.quantiles:
        report["quantiles"] = found.quantile_table()
    if measures.histogram:
        report["histogram"] = found.histogram_table()
    if measures.categories:
        report["categories"] = found.category_table()
    if measures.table:
        report["table"] = found.contingency_table()
    if measures.covariance:
        report["covariance"] = found.joint_table(measures.covariance, scaled=False)
    if measures.correlation:
        report["correlation"] = found.joint_table(measures.correlation, scaled=True)
    return report


class _NoisyNumbers:
    """The noisy numbers of all groups, by question."""

    def __init__(
        self, measures: Measures, sums: Sequence[Sequence[float]], variances: Sequence[float]
    ) -> None:
        self._measures = measures
        self._found: dict[tuple[Any, ...], Floats] = {}
        for question, numbers in zip(questions_of(measures), sums, strict=True):
            array = np.asarray(numbers, dtype=np.float64).reshape(num_groups(measures), question.bins)
            self._found[(question.kind, question.columns, question.level)] = array
        self._variances = dict(zip(SENSITIVITIES, variances, strict=True))
        self._count, self._linear, self._square = variances

    # --- tables ------------------------------------------------------------------------------

    def column_table(self) -> pd.DataFrame:
        """Return a row for each group and column."""
        names = [part for name in self._measures.column_measures for part in (name, f"{name}_{NOISE}")]
        rows = []
        for group, labels in self._groups():
            for name in self._measures.counted_columns:
                values = self._of_column(group, name)
                wanted = [
                    key for key in self._measures.column_measures if name in getattr(self._measures, key)
                ]
                kept = {key: values[key] for one in wanted for key in (one, f"{one}_{NOISE}")}
                rows.append(labels | {"column": name} | kept)
        return self._frame(rows, ["column", *names])

    def histogram_table(self) -> pd.DataFrame:
        """Return a row for each bin, those below and above the edges too."""
        rows = []
        for group, labels in self._groups():
            for name, edges in self._measures.histogram.items():
                counts = self._of(BINS, (name,))[group]
                for low, high, count in zip((-math.inf, *edges), (*edges, math.inf), counts, strict=True):
                    rows.append(labels | {"column": name, "low": low, "high": high} | self._counted(count))
        return self._frame(rows, ["column", "low", "high", "count", NOISE])

    def category_table(self) -> pd.DataFrame:
        """Return a row for each category."""
        rows = [
            labels | {"column": name, "category": category_value(text)} | self._counted(count)
            for group, labels in self._groups()
            for name in self._measures.categories
            for text, count in zip(
                self._measures.levels[name], self._of(CATEGORIES, (name,))[group], strict=True
            )
        ]
        return self._frame(rows, ["column", "category", "count", NOISE])

    def contingency_table(self) -> pd.DataFrame:
        """Return a row for each combination of categories."""
        names = self._measures.table
        rows = [
            labels | cell | self._counted(count)
            for group, labels in self._groups()
            for cell, count in zip(self._cells(names), self._of(TABLE, names)[group], strict=True)
        ]
        return self._frame(rows, [*names, "count", NOISE])

    def quantile_table(self) -> pd.DataFrame:
        """Return a row for each quantile, with the interval that the noise and the parts' width leave, 95 % of it."""
        rows = []
        for group, labels in self._groups():
            for name, fractions in self._measures.quantiles.items():
                below = self._counts_below(group, name)
                edges = np.linspace(*self._measures.bounds[name], len(below))
                for fraction in fractions:
                    rows.append(
                        labels
                        | {"column": name, "fraction": fraction}
                        | self._quantile(edges, below, fraction)
                    )
        return self._frame(rows, ["column", "fraction", "value", "low", "high"])

    def joint_table(self, names: Sequence[str], *, scaled: bool) -> pd.DataFrame:
        """Return covariances or correlations as a square for each group; the noise is that of the row's noisiest number."""
        joint = self._measures.joint_columns
        places = [joint.index(name) for name in names]
        rows = []
        for group, labels in self._groups():
            count = float(self._of(COMPLETE, joint)[group][0])
            values, noise = self._covariance(group, count)
            if scaled:
                values, noise = _correlation(values, noise)
            for name, place in zip(names, places, strict=True):
                square = dict(zip(names, values[place, places].tolist(), strict=True))
                noisiest = float(noise[place, places].max())
                rows.append(
                    labels | {"column": name} | square | {"count": max(0, round(count)), NOISE: noisiest}
                )
        return self._frame(rows, ["column", *names, "count", NOISE])

    # --- numbers -----------------------------------------------------------------------------

    def _of_column(self, group: int, name: str) -> dict[str, float]:
        present, missing = self._of(PRESENT, (name,))[group].tolist()
        deviation = math.sqrt(self._count)
        found: dict[str, float] = {
            "count": max(0, round(present)),
            "missing": max(0, round(missing)),
            f"count_{NOISE}": deviation,
            f"missing_{NOISE}": deviation,
        }
        if name not in self._measures.summed_columns:
            return found
        low, high = self._measures.bounds[name]
        half = (high - low) / 2
        if present < 1:
            keys = [part for key in ("mean", "variance", "std") for part in (key, f"{key}_{NOISE}")]
            return found | dict.fromkeys(keys, math.nan)
        mean = float(self._of(SUM, (name,))[group][0]) / present
        noise = math.sqrt(self._linear + mean * mean * self._count) / present
        found |= {"mean": min(high, max(low, low + half + half * mean)), f"mean_{NOISE}": half * noise}
        if name in self._measures.spread_columns:
            square = float(self._of(SQUARES, (name,))[group][0]) / present
            unbiased = half * half * present / (present - 1) if present > 1 else math.nan
            noise = math.sqrt(
                self._square + 4 * mean**2 * self._linear + (2 * mean**2 - square) ** 2 * self._count
            )
            variance = unbiased * min(1.0, max(0.0, square - mean * mean))
            spread = half * half * noise / present
            std = math.sqrt(variance)
            found |= {"variance": variance, f"variance_{NOISE}": spread, "std": std}
            found[f"std_{NOISE}"] = spread / (2 * std) if std > 0 else math.sqrt(spread)
        return found

    def _counts_below(self, group: int, name: str) -> Floats:
        """Return how many values lie below each edge of the finest parts, the number of all at the end."""
        trees = {level: self._of(TREE, (name,), level)[group] for level in range(1, LEVELS + 1)}
        parts = 1 << LEVELS
        below = np.zeros(parts + 1)
        for edge in range(1, parts + 1):
            for level in range(1, LEVELS + 1):
                place = edge >> (LEVELS - level)
                if place % 2:
                    below[edge] += trees[level][place - 1]
        below[parts] = trees[1].sum()
        rising = np.maximum.accumulate(below)
        falling = np.minimum.accumulate(below[::-1])[::-1]
        found: Floats = np.clip((rising + falling) / 2, 0, None)
        return found

    def _quantile(self, edges: Floats, below: Floats, fraction: float) -> dict[str, float]:
        total = float(below[-1])
        if total < 1:
            return dict.fromkeys(("value", "low", "high"), math.nan)
        rank = fraction * total
        reach = _WIDE * math.sqrt(self._count * LEVELS)
        first = int(np.searchsorted(below, rank - reach, side="right")) - 1
        last = int(np.searchsorted(below, rank + reach, side="left"))
        low, high = float(edges[max(0, first)]), float(edges[min(last, len(edges) - 1)])
        place = max(1, min(int(np.searchsorted(below, rank, side="left")), len(edges) - 1))
        step = below[place] - below[place - 1]
        share = float(np.clip((rank - below[place - 1]) / step, 0, 1)) if step > 0 else 0.5
        value = float(edges[place - 1] + share * (edges[place] - edges[place - 1]))
        return {"value": value, "low": min(low, value), "high": max(high, value)}

    def _covariance(self, group: int, count: float) -> tuple[Floats, Floats]:
        """Return the covariances and the standard deviations of their noise, NaN where there are no rows."""
        joint = self._measures.joint_columns
        size = (len(joint), len(joint))
        if count <= 1:
            return np.full(size, math.nan), np.full(size, math.nan)
        means = np.array([self._of(LINEAR, (name,))[group][0] for name in joint]) / count
        products = np.empty(size)
        for (i, one), (j, other) in combinations_with_replacement(enumerate(joint), 2):
            products[i, j] = products[j, i] = self._of(PRODUCT, (one, other))[group][0] / count
        outer = np.outer(means, means)
        levels, axes = np.linalg.eigh(products - outer)
        values = (axes * np.maximum(levels, 0)) @ axes.T * (count / (count - 1))
        noise = self._square + (means[:, None] ** 2 + means**2) * self._linear
        noise = np.sqrt(noise + (2 * outer - products) ** 2 * self._count) / count
        halves = np.array([(high - low) / 2 for low, high in (self._measures.bounds[name] for name in joint)])
        scale = np.outer(halves, halves)
        return values * scale, noise * scale

    def _of(self, kind: str, columns: tuple[str, ...], level: int = 0) -> Floats:
        return self._found[(kind, columns, level)]

    def _counted(self, count: float) -> dict[str, float]:
        return {"count": max(0, round(float(count))), NOISE: math.sqrt(self._count)}

    # --- labels ------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return enumerate(self._cells(self._measures.by))

    def _cells(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for texts in product(*(self._measures.levels[name] for name in names)):
            yield {name: category_value(text) for name, text in zip(names, texts, strict=True)}

    def _frame(self, rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
        return labelled_frame(rows, [*self._measures.by, *columns])


def _correlation(covariance: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Return correlations from covariances, and the standard deviations of their noise."""
    spread = np.diagonal(covariance)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(np.outer(spread, spread))
        found = np.where(scale > 0, np.clip(covariance / scale, -1, 1), math.nan)
        relative = np.square(np.diagonal(noise) / spread)
        deviation = np.sqrt(np.square(noise / scale) + found**2 / 4 * (relative[:, None] + relative))
    np.fill_diagonal(deviation, 0.0)
    return found, deviation
