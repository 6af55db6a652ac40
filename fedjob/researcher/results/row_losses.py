"""The rows that the numbers of an analytics result are not about, in words: filtered, incomplete, without a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.common.checks import some_of
from fedjob.protocols.analytics.tables import COVERAGE, PRESENT

MAX_NAMED = 8
"""Nodes or columns that a line names one by one; the others are counted."""


def row_losses(value: Any) -> list[str]:
    """Return a line for each way in which a result is about fewer rows than its nodes have; empty for none.

    Args:
        value: of a job's result; any that no analytics operation returned has no such lines.
    """
    if not isinstance(value, Mapping):
        return []
    coverage: Any = value.get(COVERAGE)
    present: Any = value.get(PRESENT)
    if not _has_columns(coverage, "node", "rows", "filtered", "incomplete", "used"):
        return []
    together = coverage[coverage["filtered"].isna()]
    lines = _of_nodes("left out by preprocessing", coverage, coverage["filtered"])
    lines += _of_nodes("left out because a value is missing or withheld", coverage, coverage["incomplete"])
    lines += _of_nodes("left out or withheld", together, together["rows"] - together["used"])
    if _has_columns(present, "node", "column", "present"):
        lines += _of_columns(present, coverage.set_index("node")["used"].to_dict())
    return lines


def num_incomplete(value: Any) -> int:
    """Return how many rows a result leaves out because a value is missing, or because nodes withhold them."""
    coverage: Any = value.get(COVERAGE) if isinstance(value, Mapping) else None
    if not _has_columns(coverage, "node", "rows", "filtered", "incomplete", "used"):
        return 0
    together = (coverage["rows"] - coverage["used"])[coverage["filtered"].isna()]
    return int(coverage["incomplete"].fillna(0).sum()) + int(together.sum())


def _has_columns(table: Any, *names: str) -> bool:
    return {*names} <= {*getattr(table, "columns", ())}


def _of_nodes(what: str, coverage: Any, lost: Any) -> list[str]:
    counts = [
        (str(node), int(count), int(rows))
        for node, count, rows in zip(coverage["node"], lost, coverage["rows"], strict=True)
        if not _is_missing(count) and count > 0
    ]
    if not counts:
        return []
    named = some_of([f"{node} {count} of {rows}" for node, count, rows in counts], MAX_NAMED)
    return [f"{sum(count for _, count, _ in counts)} rows {what}: {named}"]


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _of_columns(present: Any, used: Mapping[str, int]) -> list[str]:
    lines = []
    for name, rows in present.groupby("column", sort=False):
        found = {str(node): int(count) for node, count in zip(rows["node"], rows["present"], strict=True)}
        fewer = [f"{node} {count} of {used[node]}" for node, count in found.items() if count < used[node]]
        if fewer:
            total, of = sum(found.values()), sum(used[node] for node in found)
            lines.append(f"{name} has {total} of {of} values: {some_of(fewer, MAX_NAMED)}")
    more = len(lines) - MAX_NAMED
    return lines if more <= 0 else [*lines[:MAX_NAMED], f"{more} more columns have missing values"]
