"""Many questions to one node that sets a minimum of rows: what it told, read off its answers, isolates nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import Filter, Items, Statistics
from fedjob.common.errors import NodeFailure
from fedjob.data.preprocessing import to_plain_steps
from fedjob.execution.orders import WorkOrder
from fedjob.execution.workbench import Workbench
from fedjob.privacy.releases import Releases
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.analytics.quantiles import FIRST_EDGES
from fedjob.protocols.analytics.table import AuditedTable
from fedjob.protocols.analytics.tables import COVERAGE, coverage_table
from fedjob.researcher.results.row_losses import row_losses

MIN_ROWS = 4
EDGES = [(0.0, 30.0, 60.0, 90.0), (10.0, 45.0, 80.0), (20.0, 50.0, 81.0), (0.0, 90.0)]


def table() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 80, 60),
            "x": rng.normal(50, 20, 60).round(1),
            "sex": rng.choice(["f", "m"], 60, p=[0.3, 0.7]),
            "ward": rng.choice(["a", "b", "c", "d"], 60, p=[0.05, 0.15, 0.3, 0.5]),
        }
    )
    frame.loc[rng.random(60) < 0.15, "x"] = None
    return frame


def questions(seed: int) -> Iterator[tuple[Statistics, list[Filter], Items]]:
    """Yield what a curious researcher asks, in an order of its own."""
    rng = np.random.default_rng(seed)

    def some(names: list[str]) -> list[str]:
        return [name for name in names if rng.random() < 0.4]

    for _ in range(14):
        asked = Statistics(
            mean=["age", *some(["x"])],
            categories=some(["ward", "sex"]),
            histogram={name: EDGES[rng.integers(len(EDGES))] for name in some(["age"])},
            quantiles=dict.fromkeys(some(["age"]), (0.5,)),
            covariance=["age", "x"] if rng.random() < 0.3 else [],
            table=["sex", "ward"] if rng.random() < 0.2 else [],
            by=some(["sex", "ward"])[:1],
        )
        steps = [Filter("age", "<", int(rng.integers(50, 80)))] if rng.random() < 0.3 else []
        yield asked, steps, Items(limit=int(rng.integers(50, 60)) if rng.random() < 0.15 else None)


class Ledger:
    """The sets of rows that were told of, found in the answers without the node's own record."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.counted: list[pd.Series] = []
        self.summed: dict[str, list[pd.Series]] = {"age": [], "x": []}

    def read(self, asked: Statistics, within: pd.Series, value: dict[str, Any]) -> None:
        """Note every set that an answer to the first ask is about."""
        frame = self.frame
        for group in value.get("rows", {}):
            here = within & (frame[asked.by[0]] == group) if asked.by else within
            self.note(here, value["rows"][group])
            for name, found in value.get("columns", {}).get(group, {}).items():
                self.summed[name].append(here & frame[name].notna())
                assert found["sum"] == pytest.approx(frame.loc[here, name].sum())
            if group in value.get("joint", {}):
                complete = here & frame["x"].notna()
                for name in asked.joint_columns:
                    self.summed[name].append(complete)
            for name, texts in value.get("categories", {}).get(group, {}).items():
                for text, count in texts.items():
                    self.note(here & (frame[name] == text), count)
            for name, bins in value.get("histogram", {}).get(group, {}).items():
                edges = asked.histogram[name]
                for place in (place for place in bins if place.isdigit()):
                    low, high = edges[int(place)], edges[int(place) + 1]
                    self.note(here & (frame[name] >= low) & (frame[name] < high), bins[place])
            for cell, count in value.get("table", {}).get(group, {}).items():
                sex, ward = cell.split("\x1f")
                self.note(here & (frame["sex"] == sex) & (frame["ward"] == ward), count)
            for name, found in value.get("quantiles", {}).get(group, {}).items():
                least, most = found["brackets"][0]
                for edge, low, high in zip(FIRST_EDGES, least, most, strict=True):
                    if low == high:
                        self.note(here & (frame[name] < edge), low)

    def note(self, rows: pd.Series, count: int) -> None:
        assert count == rows.sum()
        self.counted.append(rows)

    def pieces(self, sets: list[pd.Series]) -> list[int]:
        """Return the sizes of what these sets cut the rows into, but for the rows in none of them."""
        frame = pd.DataFrame({str(place): rows for place, rows in enumerate(sets)})
        return frame[frame.any(axis=1)].value_counts().tolist()


@pytest.mark.parametrize("seed", range(3))
def test_what_a_node_told_cuts_its_rows_into_pieces_that_are_large_enough(tmp_path: Path, seed: int) -> None:
    frame = table()
    frame.to_csv(tmp_path / "table.csv", index=False)
    ledger, told, numbers = Ledger(frame), 0, itertools.count()
    for asked, steps, items in questions(seed):
        output = tmp_path / str(next(numbers))
        output.mkdir()
        name, config = PROTOCOLS.config_of(asked)
        order = WorkOrder(
            key="k",
            job="job",
            round=1,
            step="count",
            node="n",
            protocol=name,
            config=config,
            dataset={
                "name": "table",
                "path": str(tmp_path / "table.csv"),
                "preprocess": to_plain_steps(steps),
            },
            items=items,
            output_path=str(output),
            limits={"min_rows": MIN_ROWS},
            releases_path=str(tmp_path / "releases.safetensors"),
        )
        try:
            done = Workbench().compute(order, lambda type_, data: None)
        except NodeFailure as failure:
            if failure.reason != "min_rows":
                raise
            continue
        within = pd.Series(True, index=frame.index)
        for step in steps:
            within &= frame["age"] < step.value
        if items.limit is not None:
            within &= within.cumsum() <= items.limit
        ledger.read(asked, within, done.value)
        told += 1
    assert told >= 3
    assert min(ledger.pieces(ledger.counted)) >= MIN_ROWS
    for sets in (sets for sets in ledger.summed.values() if sets):
        assert min(ledger.pieces(sets)) >= MIN_ROWS


@pytest.mark.parametrize(("filtered", "released"), [(3, False), (5, True), (0, True)])
def test_how_many_rows_a_filter_left_is_counted_where_that_many_may_be_released(
    filtered: int, released: bool
) -> None:
    releases = Releases.fresh(5, 40)
    frame = pd.DataFrame({"age": range(40 - filtered)})
    table = AuditedTable("strict", frame, 40, 5, releases.admit)
    counts = table.coverage(30)
    assert (counts.pop("kept", None) == 40 - filtered) is released
    assert counts == {"read": 40, "used": 30}


def test_rows_that_may_not_be_counted_apart_are_counted_together_in_words() -> None:
    coverage = coverage_table({"open": {"read": 9, "kept": 9, "used": 8}, "strict": {"read": 40, "used": 30}})
    assert row_losses({COVERAGE: coverage}) == [
        "1 rows left out because a value is missing or withheld: open 1 of 9",
        "10 rows left out or withheld: strict 10 of 40",
    ]


def test_only_the_results_of_analytics_have_lines_on_rows() -> None:
    assert row_losses([1, 2]) == row_losses({}) == row_losses({COVERAGE: 0.9, "present": {"a": 1}}) == []
    assert row_losses({COVERAGE: pd.DataFrame({"site": ["a"], "rows": [3]})}) == []
