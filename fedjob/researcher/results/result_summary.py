"""The summary of a job's result: its named tables as DataFrames, and a report of them to read."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjob.common.checks import shown
from fedjob.common.notebooks.plain_tables import Figure, number_text
from fedjob.common.notebooks.report import Report, ShownTable
from fedjob.protocols.analytics.survival.breslow import BASELINE
from fedjob.protocols.analytics.tables import COVERAGE, PRESENT
from fedjob.researcher.storage.measurements import OVERALL, Measurement

COEFFICIENTS = "coefficients"
SURVIVAL = "survival"
"""The curves of a `KaplanMeier`: drawn by `plot()`, and too long for a report."""

MAX_COLUMNS = 12
MAX_ROWS = 5000
"""Most rows of a table that a report holds: `result.table` and `result.tables` have all."""

MAX_FACT = 200

_BESIDE = (COVERAGE, PRESENT, "nodes")
"""Keys of an analysis that say whom it is about: the last line of a report says it."""


class RegressionWords(NamedTuple):
    """The words of a regression.

    Args:
        title: such as `Logistic regression`.
        ratio: the name of exp(estimate); empty where it means nothing.
        table: the key of the table of ratios.
        symbol: of the statistic of a term.
    """

    title: str
    ratio: str = ""
    table: str = ""
    symbol: str = "z"


REGRESSIONS = {
    "linear_regression": RegressionWords("Linear regression", symbol="t"),
    "ridge": RegressionWords("Ridge regression"),
    "logistic_regression": RegressionWords("Logistic regression", "odds ratio", "odds_ratios"),
    "poisson_regression": RegressionWords("Poisson regression", "rate ratio", "rate_ratios"),
    "cox_regression": RegressionWords("Cox regression", "hazard ratio", "hazard_ratios"),
}
"""Name of a protocol -> its words."""

_TITLES = {
    "statistics": "Statistics",
    "pca": "Principal components",
    "kmeans": "Clusters (k-means)",
    "kaplan_meier": "Survival (Kaplan-Meier)",
    "outliers": "Outliers",
    "evaluation": "Evaluation",
    "function": "Result",
}


def tables_of(value: Any, protocol: str) -> dict[str, Any]:
    """Return the tables in a result's value, name -> DataFrame; of a regression with its ratios and their intervals.

    Args:
        protocol: name of the one that computed it.
    """
    if not isinstance(value, Mapping):
        return {"table": value} if _is_frame(value) else {}
    found = {str(name): item for name, item in value.items() if _is_frame(item)}
    words = REGRESSIONS.get(protocol)
    if words is not None and words.ratio and COEFFICIENTS in found:
        found[words.table] = ratio_table(found[COEFFICIENTS], words.ratio)
    return found


def ratio_table(coefficients: Any, ratio: str) -> Any:
    """Return exp(estimate) of each term but the intercept, with its own 95 % interval: a DataFrame.

    Args:
        ratio: the name of its column, in words.

    Returns:
        Columns `term`, the ratio with `_` for blanks, `low`, `high`, `p_value`.
    """
    import numpy as np
    import pandas

    terms = coefficients[coefficients["term"] != "intercept"]
    with np.errstate(over="ignore"):
        return pandas.DataFrame(
            {
                "term": terms["term"],
                ratio.replace(" ", "_"): np.exp(terms["estimate"]),
                "low": np.exp(terms["low"]),
                "high": np.exp(terms["high"]),
                "p_value": terms["p_value"],
            }
        ).reset_index(drop=True)


def report_of(value: Any, protocol: str, config: Mapping[str, Any], about: str) -> Report:
    """Return a value as a report.

    Args:
        protocol: name of the one that computed it.
        config: of the protocol.
    """
    tables = tables_of(value, protocol)
    words = REGRESSIONS.get(protocol)
    if words is not None and COEFFICIENTS in tables:
        return _regression_report(value, tables, words, config, about)
    title = _TITLES.get(protocol, "Result")
    if not isinstance(value, Mapping) or not value:
        if "table" in tables:
            frame = tables["table"]
            return Report(title=f"{title}, {len(frame)} rows", tables=[named_table("", frame)], about=about)
        return Report(title=title, facts={"value": shown_shortly(value)}, about=about)
    by_key = _table_of_map(value)
    if by_key is not None and not tables:
        return Report(title=title, tables=[by_key], about=about)
    facts: dict[str, Any] = {}
    drawn = []
    for name, frame in tables.items():
        if frame.shape == (1, 1):
            facts[name] = figure(frame.iat[0, 0])
        elif name not in _BESIDE and not (protocol == "kaplan_meier" and name == SURVIVAL):
            drawn.append(named_table(name.replace("_", " "), frame))
    for name, item in value.items():
        if str(name) in tables or str(name) in _BESIDE or _is_empty(item) or _is_nothing_withheld(name, item):
            continue
        inner = _table_of_map(item) if isinstance(item, Mapping) and len(item) > 1 else None
        if inner is not None:
            drawn.append(ShownTable(name=str(name), header=inner.header, rows=inner.rows))
        else:
            facts[str(name)] = item if isinstance(item, (numbers.Real, str)) else shown_shortly(item)
    return Report(title=title, facts=facts, tables=drawn, about=about)


def _regression_report(
    value: Mapping[str, Any],
    tables: Mapping[str, Any],
    words: RegressionWords,
    config: Mapping[str, Any],
    about: str,
) -> Report:
    target = config.get("target") or f"{config.get('duration')} with event {config.get('event')}"
    facts = {
        name.replace("_", " ").replace("log likelihood", "log-likelihood"): item
        for name, item in value.items()
        if not isinstance(item, bool) and isinstance(item, numbers.Real)
    }
    drawn = [_coefficients(tables[COEFFICIENTS], words)]
    if words.ratio:
        frame = tables[words.table]
        rows = tuple(
            (str(term), *map(figure, (ratio, low, high)))
            for term, ratio, low, high, _ in frame.itertuples(index=False)
        )
        header = ("term", words.ratio, "[0.025", "0.975]")
        drawn.append(ShownTable(name=f"{words.ratio.capitalize()}s", header=header, rows=rows))
    rest = [
        named_table(name.replace("_", " "), frame)
        for name, frame in tables.items()
        if name not in (COEFFICIENTS, words.table, BASELINE, *_BESIDE)
    ]
    return Report(title=f"{words.title} of {target}", facts=facts, tables=[*drawn, *rest], about=about)


def _coefficients(frame: Any, words: RegressionWords) -> ShownTable:
    """Return the coefficients as statsmodels shows them."""
    names = {
        "estimate": "coef",
        "std_error": "std err",
        "statistic": words.symbol,
        "p_value": f"P>|{words.symbol}|",
        "low": "[0.025",
        "high": "0.975]",
    }
    columns = [name for name in frame.columns if name in names]
    rows = tuple(
        (
            str(row["term"]),
            *(p_text(row[name]) if name == "p_value" else figure(row[name]) for name in columns),
        )
        for row in frame.to_dict("records")
    )
    return ShownTable(name="Coefficients", header=("term", *(names[name] for name in columns)), rows=rows)


def p_text(value: Any) -> Figure:
    """Return a p-value as papers write it."""
    if not isinstance(value, numbers.Real) or math.isnan(value):
        return Figure("–")
    return Figure("<0.001" if value < 0.001 else f"{value:.3f}")


def figure(value: Any) -> Any:
    """Return a number with four significant digits, to stand in a column of numbers; anything else as it is."""
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, numbers.Integral)):
        return value
    return Figure(number_text(float(value)))


def named_table(name: str, frame: Any) -> ShownTable:
    """Return a DataFrame as a table of cells; of very many rows or columns the first ones."""
    if len(frame) > MAX_ROWS:
        name = f"{name}: ".lstrip(": ") + f"the first {MAX_ROWS} of {len(frame)} rows"
        frame = frame.head(MAX_ROWS)
    columns = [str(column) for column in frame.columns]
    rows = [
        tuple(_cell(column, cell) for column, cell in zip(columns, row, strict=True))
        for row in frame.itertuples(index=False, name=None)
    ]
    if len(columns) > MAX_COLUMNS:
        more = f"… {len(columns) - MAX_COLUMNS} more"
        columns = [*columns[:MAX_COLUMNS], more]
        rows = [(*row[:MAX_COLUMNS], None) for row in rows]
    return ShownTable(name=name, header=tuple(columns), rows=tuple(rows))


def _cell(column: str, value: Any) -> Any:
    if _is_missing(value):
        return None
    return p_text(value) if column == "p_value" else figure(value)


def _table_of_map(value: Mapping[Any, Any]) -> ShownTable | None:
    """Return a map of numbers, or of maps of numbers such as metrics of nodes, as a table; None for any other."""
    if not value:
        return None
    if all(isinstance(item, Mapping) for item in value.values()):
        inner = list(dict.fromkeys(str(key) for item in value.values() for key in item))
        cells = [[item.get(name) for name in inner] for item in value.values()]
        if not inner or len(inner) > MAX_COLUMNS or not all(_is_plain(cell) for row in cells for cell in row):
            return None
        rows = [(str(key), *map(figure, row)) for key, row in zip(value, cells, strict=True)]
        return ShownTable(name="", header=("node", *inner), rows=_overall_last(rows))
    if not all(_is_plain(item) for item in value.values()):
        return None
    return ShownTable(
        name="", header=("", "value"), rows=tuple((str(key), figure(item)) for key, item in value.items())
    )


def _overall_last(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """Return rows with that of all nodes last."""
    return tuple(sorted(rows, key=lambda row: row[0] == OVERALL))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (numbers.Real, str))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (Mapping, list, tuple, str)) and not value)


def _is_nothing_withheld(name: Any, value: Any) -> bool:
    counts = value.values() if isinstance(value, Mapping) else [value]
    return str(name) in ("withheld", "joined") and not any(counts)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _is_frame(value: Any) -> bool:
    return type(value).__name__ == "DataFrame" and hasattr(value, "itertuples")


def shown_shortly(value: Any) -> str:
    """Return any value in one line."""
    text = shown(value)
    return text if len(text) <= MAX_FACT else f"{text[: MAX_FACT - 3]}..."


def metrics_table(rows: Sequence[Measurement]) -> ShownTable | None:
    """Return the last metrics of a training job: a row for each node, all nodes last; None where none was measured."""
    last: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        last.setdefault((row.metric, row.phase), {})[row.node] = row.value
    if not last:
        return None
    known = [
        (m, p) for m, p in last if m != "confusion_matrix" or ("accuracy", p) not in last
    ]  # its value is the accuracy
    columns = known[:MAX_COLUMNS]
    nodes = sorted({row.node for row in rows}, key=lambda node: (node == OVERALL, node))
    body = [
        ("all nodes" if node == OVERALL else node, *(last[column].get(node) for column in columns))
        for node in nodes
    ]
    header = ("node", *(f"{metric} ({phase})" for metric, phase in columns))
    return ShownTable(name="", header=header, rows=tuple(tuple(map(figure, row)) for row in body))
