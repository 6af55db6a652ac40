"""The numbers that a node releases for `Statistics`: cells of rows, and those sums in them that may leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjob.common.errors import NodeFailure
from fedjob.privacy.isolation import isolates, marks_few
from fedjob.privacy.releases import Floats, Release, Rows
from fedjob.protocols.analytics.measures import Measures
from fedjob.protocols.analytics.quantiles import edges_within
from fedjob.protocols.analytics.table import (
    SEPARATOR,
    AuditedTable,
    by_value,
    categories,
    need_columns,
    numbers,
)

MAX_CELLS = 10_000
"""Cells that one answer may have."""

Sums = dict[str, Any]
"""Nested maps of numbers that add."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the answer, and the number that would be released there.

    Args:
        path: keys of the nested maps.
        compute: what stands there.
        barred: it may never be released, whatever was released before.
    """

    path: tuple[str, ...]
    telling: Release
    compute: Callable[[], Any]
    barred: bool = False


def groups_of(table: AuditedTable, by: Sequence[str]) -> tuple[dict[str, Rows], Rows]:
    """Return the rows of each group by its name, and the rows of none because a value is missing.

    Without columns to group by there is one group, of all rows, with an empty name.
    """
    return _crossed(table, table.all_rows, by)


def released_rows(measures: Measures, table: AuditedTable) -> int:
    """Return how many rows are in groups that may be released."""
    groups, ungrouped = groups_of(table, measures.by)
    allowed = table.admit([Release(rows, excused=ungrouped) for rows in groups.values()])
    return sum(len(rows) for rows, may in zip(groups.values(), allowed, strict=True) if may)


def first_sums(measures: Measures, table: AuditedTable) -> Sums:
    """Return counts, sums, histograms and tables of every group, and the first counts for quantiles."""
    groups, ungrouped = groups_of(table, measures.by)
    cells = list(_first_cells(measures, table, groups, ungrouped))
    released = _released(table, cells)
    released["withheld"] = len(cells) - released.pop("num_released")
    return released | quantile_counts(measures, table, None)


def present_values(measures: Measures, released: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows each measure of a node's first answer is about: those with a value, in released groups.

    Returns:
        Column -> number of its present values; several columns together, joined by ` & `, where a row counts only
        if it has a value in all of them.
    """
    found: dict[str, int] = {}

    def count(name: str, number: int) -> None:
        found[name] = found.get(name, 0) + number

    for columns in released.get("columns", {}).values():
        for name, one in columns.items():
            count(name, one["count"])
    counted = set(measures.counted_columns)
    for columns in released["quantiles"].values():
        for name in columns.keys() - counted:
            count(name, columns[name]["count"])
    counted |= set(measures.quantiles)
    for part in ("histogram", "categories"):
        for columns in released.get(part, {}).values():
            for name in columns.keys() - counted:
                count(name, sum(columns[name].values()))
        counted |= set(getattr(measures, part))
    for number, _ in released.get("joint", {}).values():
        count(" & ".join(measures.joint_columns), number)
    for cells in released.get("table", {}).values():
        count(" & ".join(measures.table), sum(cells.values()))
    return found


def centred_sums(
    measures: Measures, table: AuditedTable, spread: Mapping[str, float], joint: Mapping[str, float]
) -> Sums:
    """Return sums of differences from the centres, of their squares and of their products.

    Args:
        spread, joint: column -> near its mean, so that nothing cancels.
    """
    groups, ungrouped = groups_of(table, measures.by)
    cells = []
    columns = {name: numbers(table.node, table.frame, name) for name in (*spread, *joint)}
    for group, rows in groups.items():
        for name in measures.spread_columns:
            values = columns[name] - spread[name]
            used = rows[~np.isnan(values[rows])]
            cells.append(
                Cell(
                    ("centred", group, name),
                    Release(rows, (name,), used, ungrouped),
                    _squares(values, used),
                    marks_few(values[used], table.min_rows, moments=2),
                )
            )
        if measures.joint_columns:
            matrix = np.column_stack([columns[name] - joint[name] for name in measures.joint_columns])
            used = rows[~np.isnan(matrix[rows]).any(axis=1)]
            telling = Release(rows, measures.joint_columns, used, ungrouped)
            barred = isolates(matrix[used], table.min_rows)
            cells.append(Cell(("products", group), telling, _products(matrix, used), barred))
    released = _released(table, cells)
    del released["num_released"]
    return released


def quantile_counts(
    measures: Measures, table: AuditedTable, brackets: Mapping[str, Mapping[str, list[list[float]]]] | None
) -> Sums:
    """Return bounds on the counts below the edges that divide each bracket.

    Args:
        brackets: group -> column -> `[low, high]` pairs; None for the first grid in every group.
    """
    groups, ungrouped = groups_of(table, measures.by)
    released: Sums = {}
    for name in measures.quantiles:
        values = numbers(table.node, table.frame, name)
        for group, rows in groups.items():
            if brackets is not None and not brackets.get(group, {}).get(name):
                continue
            wanted = [[-np.inf, np.inf]] if brackets is None else brackets[group][name]
            present = rows[~np.isnan(values[rows])]
            excused = np.concatenate([ungrouped, np.setdiff1d(rows, present)])
            if not table.admit([Release(rows, (name,), present, ungrouped)])[0]:
                continue
            counts = [
                bounds_below(table, values, present, excused, edges_within(low, high)) for low, high in wanted
            ]
            released.setdefault(group, {})[name] = {"count": len(present), "brackets": counts}
    return {"quantiles": released}


def extremes(measures: Measures, table: AuditedTable) -> dict[str, Any]:
    """Return the smallest and the largest value of each column in each group that may be released."""
    groups, ungrouped = groups_of(table, measures.by)
    released: dict[str, Any] = {}
    for name in dict.fromkeys((*measures.min, *measures.max)):
        values = numbers(table.node, table.frame, name)
        for group, rows in groups.items():
            used = rows[~np.isnan(values[rows])]
            if len(used) and table.admit([Release(rows, (name,), used, ungrouped)])[0]:
                released.setdefault(group, {})[name] = [float(values[used].min()), float(values[used].max())]
    return released


def _first_cells(
    measures: Measures, table: AuditedTable, groups: Mapping[str, Rows], ungrouped: Rows
) -> Iterator[Cell]:
    node, frame = table.node, table.frame
    need_columns(node, frame, measures.all_columns)
    summed = {name: numbers(node, frame, name) for name in measures.summed_columns}
    binned = {name: numbers(node, frame, name) for name in measures.histogram}
    joint = {name: numbers(node, frame, name) for name in measures.joint_columns}
    sorts = {name: categories(node, frame, name) for name in measures.categories}
    barred = {name for name in dict.fromkeys((*summed, *joint)) if not table.may_sum([name])}

    def moments(name: str) -> int:
        return 2 if name in measures.spread_columns else 1

    for group, rows in groups.items():
        yield Cell(("rows", group), Release(rows, excused=ungrouped), _number(len(rows)))
        for name in measures.counted_columns:
            used = rows[frame[name].notna().to_numpy()[rows]]
            values = summed.get(name)
            yield Cell(
                ("columns", group, name),
                Release(rows, () if values is None else (name,), used, ungrouped),
                _column(values, rows, used),
                values is not None
                and (name in barred or marks_few(values[used], table.min_rows, moments=moments(name))),
            )
        for name, edges in measures.histogram.items():
            missing = rows[np.isnan(binned[name][rows])]
            for place, inside in _binned(binned[name], np.setdiff1d(rows, missing), edges).items():
                telling = Release(inside, excused=np.concatenate([ungrouped, missing]))
                yield Cell(("histogram", group, name, place), telling, _number(len(inside)))
        for name, texts in sorts.items():
            found = by_value(texts, rows)
            missing = np.setdiff1d(rows, _joined(found))
            for text, inside in found.items():
                telling = Release(inside, excused=np.concatenate([ungrouped, missing]))
                yield Cell(("categories", group, name, text), telling, _number(len(inside)))
        if measures.joint_columns:
            matrix = np.column_stack([joint[name] for name in measures.joint_columns])
            used = rows[~np.isnan(matrix[rows]).any(axis=1)]
            telling = Release(rows, measures.joint_columns, used, ungrouped)
            small = bool(barred & set(measures.joint_columns)) or isolates(matrix[used], table.min_rows)
            yield Cell(("joint", group), telling, _linear(matrix, used), small)
        if measures.table:
            crossed, missing = _crossed(table, rows, measures.table)
            for text, inside in crossed.items():
                telling = Release(inside, excused=np.concatenate([ungrouped, missing]))
                yield Cell(("table", group, text), telling, _number(len(inside)))


def _released(table: AuditedTable, cells: Sequence[Cell]) -> Sums:
    """Compute the cells that may be released."""
    if len(cells) > MAX_CELLS:
        raise NodeFailure(
            table.node, "columns", f"this would be {len(cells)} numbers from one node; at most {MAX_CELLS}"
        )
    released: Sums = {}
    open_cells = [cell for cell in cells if not cell.barred]
    allowed = table.admit([cell.telling for cell in open_cells])
    for cell in (cell for cell, may in zip(open_cells, allowed, strict=True) if may):
        inner = released
        for key in cell.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[cell.path[-1]] = cell.compute()
    return released | {"num_released": sum(allowed)}


def _crossed(table: AuditedTable, rows: Rows, names: Sequence[str]) -> tuple[dict[str, Rows], Rows]:
    """Divide rows by the values of several columns together; also return those where one is missing."""
    found = {"": rows}
    for number, name in enumerate(names):
        texts = categories(table.node, table.frame, name)
        found = {
            f"{before}{SEPARATOR}{text}" if number else text: inside
            for before, within in found.items()
            for text, inside in by_value(texts, within).items()
        }
    return found, np.setdiff1d(rows, _joined(found))


def _joined(found: Mapping[str, Rows]) -> Rows:
    return np.concatenate(list(found.values())) if found else np.empty(0, dtype=np.int64)


def _binned(values: Floats, rows: Rows, edges: Sequence[float]) -> dict[str, Rows]:
    """Divide rows among bins: `[low, high)`, the last with its high end; those outside are `below` and `above`."""
    places = np.searchsorted(edges, values[rows], side="right") - 1
    places[values[rows] == edges[-1]] = len(edges) - 2
    named = {"below": -1, **{str(place): place for place in range(len(edges) - 1)}, "above": len(edges) - 1}
    return {name: rows[places == place] for name, place in named.items() if (places == place).any()}


def bounds_below(
    table: AuditedTable, values: Floats, present: Rows, excused: Rows, edges: Sequence[float]
) -> list[list[int]]:
    """Return at least and at most how many values lie below each edge, exactly where that may be released."""
    ordered = present[np.argsort(values[present], kind="stable")]
    counts = np.searchsorted(values[ordered], edges, side="left").tolist()
    # what lies above stands for itself: a rest of rows where the value is missing is no rest of these
    distinct = sorted(set(counts))
    may = table.admit([Release(ordered[:count], excused=excused) for count in distinct])
    released = {count for count, allowed in zip(distinct, may, strict=True) if allowed}
    least = [max((known for known in released if known <= count), default=0) for count in counts]
    most = [min((known for known in released if known >= count), default=len(present)) for count in counts]
    return [least, most]


def _number(value: int) -> Callable[[], Any]:
    return lambda: value


def _column(values: Floats | None, rows: Rows, used: Rows) -> Callable[[], Any]:
    def compute() -> dict[str, Any]:
        counts = {"count": len(used), "missing": len(rows) - len(used)}
        return counts if values is None else {**counts, "sum": float(values[used].sum())}

    return compute


def _linear(matrix: Floats, used: Rows) -> Callable[[], Any]:
    return lambda: [len(used), matrix[used].sum(axis=0).tolist()]


def _squares(values: Floats, used: Rows) -> Callable[[], Any]:
    return lambda: [len(used), float(values[used].sum()), float(np.square(values[used]).sum())]


def _products(matrix: Floats, used: Rows) -> Callable[[], Any]:
    def compute() -> list[Any]:
        inside = matrix[used]
        return [len(used), inside.sum(axis=0).tolist(), (inside.T @ inside).tolist()]

    return compute
