"""The totals of all nodes as tables for the researcher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjob.data.category import category_text
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.measures import Measures
from fedjob.protocols.analytics.quantiles import Bracket, ranks_of
from fedjob.protocols.analytics.table import SEPARATOR, category_value, in_order

if TYPE_CHECKING:
    import pandas as pd

COVERAGE, PRESENT = "coverage", "present"
"""The keys of a result under which `coverage_table` and `present_table` stand."""

Extremes = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Node -> group -> column -> smallest and largest."""


def column_table(measures: Measures, sums: Mapping[str, Any], released: Extremes) -> pd.DataFrame:
    """Return one row for each group and column, with the measures that were asked for."""
    rows = []
    for group in _ordered(sums.get("columns", {})):
        found = sums["columns"][group]
        for name in (name for name in measures.counted_columns if name in found):
            values = _measures(measures, name, found[name], sums.get("centred", {}).get(group, {}).get(name))
            values |= _extremes(measures, name, group, released)
            rows.append(_labels(measures.by, group) | {"column": name} | values)
    return labelled_frame(rows, [*measures.by, "column", *measures.column_measures])


def coverage_table(coverage: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Return a row for each node: what the numbers are about, and what was left out on the way there.

    Returns:
        Columns `node`; `rows`, of its dataset; `filtered`, those that preprocessing left out; `incomplete`, those in
        which a value is missing, or that the node withheld; `used`, the others. `filtered` and `incomplete` are
        missing together where the node may not release them apart.
    """
    import pandas as pd

    rows = []
    for node, counts in sorted(coverage.items()):
        kept = counts.get("kept")
        rows.append(
            {
                "node": node,
                "rows": counts["read"],
                "filtered": None if kept is None else counts["read"] - kept,
                "incomplete": None if kept is None else kept - counts["used"],
                "used": counts["used"],
            }
        )
    frame = pd.DataFrame(rows, columns=["node", "rows", "filtered", "incomplete", "used"])
    return frame.astype({"filtered": "Int64", "incomplete": "Int64"})


def present_table(present: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Return a row for each node and column: how many of its rows the column's numbers are about."""
    import pandas as pd

    rows = [
        {"node": node, "column": name, "present": number}
        for node, columns in sorted(present.items())
        for name, number in columns.items()
    ]
    return pd.DataFrame(rows, columns=["node", "column", "present"])


def count_table(measures: Measures, sums: Mapping[str, Any]) -> pd.DataFrame:
    """Return how many rows each group has."""
    rows = [
        _labels(measures.by, group) | {"rows": count} for group, count in _in_groups(sums.get("rows", {}))
    ]
    return labelled_frame(rows, [*measures.by, "rows"])


def histogram_table(measures: Measures, sums: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each bin, and for what lies outside of all where there is some."""
    rows = []
    for group, columns in _in_groups(sums.get("histogram", {})):
        for name, edges in measures.histogram.items():
            counts = columns.get(name, {})
            bins = {str(place): (edges[place], edges[place + 1]) for place in range(len(edges) - 1)}
            outside = {"below": (-math.inf, edges[0]), "above": (edges[-1], math.inf)}
            for key, (low, high) in (bins | {key: outside[key] for key in outside if key in counts}).items():
                labels = _labels(measures.by, group) | {"column": name}
                rows.append(labels | {"low": low, "high": high, "count": counts.get(key, 0)})
    return labelled_frame(rows, [*measures.by, "column", "low", "high", "count"])


def category_table(measures: Measures, sums: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each category."""
    rows = [
        _labels(measures.by, group) | {"column": name, "category": category_value(text), "count": count}
        for group, columns in _in_groups(sums.get("categories", {}))
        for name in measures.categories
        for text, count in sorted(columns.get(name, {}).items(), key=lambda item: in_order(item[0]))
    ]
    return labelled_frame(rows, [*measures.by, "column", "category", "count"])


def contingency_table(measures: Measures, sums: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each combination of values that occurs."""
    rows = [
        _labels(measures.by, group) | _labels(measures.table, cell) | {"count": count}
        for group, cells in _in_groups(sums.get("table", {}))
        for cell, count in _in_groups(cells)
    ]
    return labelled_frame(rows, [*measures.by, *measures.table, "count"])


def quantile_table(
    measures: Measures,
    counts: Mapping[str, Mapping[str, int]],
    brackets: Mapping[str, Mapping[str, Mapping[int, Bracket]]],
) -> pd.DataFrame:
    """Return one row for each quantile, with the most that it can be off."""
    rows = []
    for group in _ordered(counts):
        for name, count in counts[group].items():
            for fraction in measures.quantiles[name] if count else ():
                lower, upper, way = ranks_of(fraction, count)
                low, high = brackets[group][name][lower], brackets[group][name][upper]
                value = low.value if not way else low.value + (high.value - low.value) * way
                error = low.width if not way else max(low.width, high.width)
                labels = _labels(measures.by, group) | {"column": name}
                rows.append(labels | {"fraction": fraction, "value": value, "error": error})
    return labelled_frame(rows, [*measures.by, "column", "fraction", "value", "error"])


def joint_table(measures: Measures, sums: Mapping[str, Any], *, scaled: bool) -> pd.DataFrame:
    """Return the covariances, or the correlations, as a square for each group."""
    names = measures.correlation if scaled else measures.covariance
    places = [measures.joint_columns.index(name) for name in names]
    rows = []
    for group, (count, linear, products) in _in_groups(sums.get("products", {})):
        square = [
            [
                (products[i][j] - linear[i] * linear[j] / count) / (count - 1) if count > 1 else math.nan
                for j in places
            ]
            for i in places
        ]
        for i, name in enumerate(names):
            values = (
                [
                    _ratio(square[i][j], math.sqrt(max(0.0, square[i][i]) * max(0.0, square[j][j])))
                    for j in range(len(names))
                ]
                if scaled
                else square[i]
            )
            labels = _labels(measures.by, group) | {"column": name}
            rows.append(labels | dict(zip(names, values, strict=True)) | {"count": count})
    return labelled_frame(rows, [*measures.by, "column", *names, "count"])


def _measures(
    measures: Measures, name: str, found: Mapping[str, Any], centred: Sequence[Any] | None
) -> dict[str, Any]:
    count = found["count"]
    values: dict[str, Any] = {
        key: found[key] for key in ("count", "missing") if name in getattr(measures, key)
    }
    if name in measures.mean:
        values["mean"] = found["sum"] / count if count else math.nan
    if name in measures.spread_columns:
        variance = math.nan
        if centred is not None and centred[0] > 1:
            inside, linear, squares = centred
            variance = max(0.0, squares - linear * linear / inside) / (inside - 1)
        values |= {
            key: value
            for key, value in (("variance", variance), ("std", math.sqrt(variance)))
            if name in getattr(measures, key)
        }
    return values


def _extremes(measures: Measures, name: str, group: str, released: Extremes) -> dict[str, float]:
    found = [groups[group][name] for groups in released.values() if name in groups.get(group, {})]
    values = {}
    if name in measures.min:
        values["min"] = min((low for low, _ in found), default=math.nan)
    if name in measures.max:
        values["max"] = max((high for _, high in found), default=math.nan)
    return values


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else math.nan


def _labels(names: Sequence[str], text: str) -> dict[str, Any]:
    values = [category_value(part) for part in text.split(SEPARATOR)]
    return dict(zip(names, values, strict=True)) if names else {}


def _in_groups(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, found[name]) for name in _ordered(found))


def _ordered(names: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=lambda name: [in_order(part) for part in name.split(SEPARATOR)])


def labelled_frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Return a table; a column of which some values are names has the others as names too."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns)
    for name in frame:
        if any(isinstance(value, str) for value in frame[name]):
            frame[name] = [category_text(value) for value in frame[name]]
    return frame


_CONFIDENCE = 0.975


def estimate_table(terms: Sequence[str], found: Floats) -> pd.DataFrame:
    """Return a table of estimates alone, for models whose estimates have no simple standard error."""
    import pandas as pd

    return pd.DataFrame({"term": list(terms), "estimate": found})


def coefficient_table(
    terms: Sequence[str], found: Floats, covariance: Floats, freedom: float | None = None
) -> pd.DataFrame:
    """Return a table of estimates with standard errors, two-sided p-values and 95 % intervals.

    Args:
        freedom: the degrees of freedom of Student's t; None for the normal distribution.
    """
    import pandas as pd
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    errors = np.sqrt(np.diagonal(covariance))
    statistic = found / errors
    if freedom is None:
        p_values, reach = 2 * ndtr(-np.abs(statistic)), ndtri(_CONFIDENCE)
    else:
        p_values, reach = 2 * stdtr(freedom, -np.abs(statistic)), stdtrit(freedom, _CONFIDENCE)
    return pd.DataFrame(
        {
            "term": list(terms),
            "estimate": found,
            "std_error": errors,
            "statistic": statistic,
            "p_value": p_values,
            "low": found - reach * errors,
            "high": found + reach * errors,
        }
    )


def centre_table(features: Sequence[str], centres: Floats, sizes: Sequence[int]) -> pd.DataFrame:
    """Return a table with a row for each cluster: its centre and its number of rows."""
    import pandas as pd

    table = pd.DataFrame(centres, columns=list(features))
    table.insert(0, "cluster", range(len(centres)))
    table["rows"] = list(sizes)
    return table


def component_table(features: Sequence[str], vectors: Floats, variances: Floats) -> pd.DataFrame:
    """Return a table with a row for each component: direction, variance, and fraction of the total variance."""
    import pandas as pd

    table = pd.DataFrame(vectors, columns=list(features))
    table.insert(0, "component", range(1, len(vectors) + 1))
    table["variance"] = variances
    table["ratio"] = variances / variances.sum()
    return table
