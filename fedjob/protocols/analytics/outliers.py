"""Outliers of columns, over the rows of all nodes together.

Tukey 1977, "Exploratory Data Analysis" (the fences of a box plot), and the z-score:

    low = Q1 - w (Q3 - Q1),  high = Q3 + w (Q3 - Q1)        w: 1.5, quartiles as pandas has them
    low = mean - z s,        high = mean + z s              z: 3, s with n - 1 in the denominator

First come mean, standard deviation and quartiles of the rows of all nodes, as `Statistics` finds them, then the counts of
values below and above both pairs of limits.

Nothing stays at a node but, where its owner sets `min_rows`, the record of what was released. A count of outliers is a count of
rows like any other: of fewer than `min_rows` rows it is withheld, and so are counts from which such a one would follow.

What leaks: what `Statistics` leaks for these measures. No outlier's row or value leaves its node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.sum import Sum
from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import NodeFailure, SpecError, Unsolvable
from fedjob.protocols.analytics.base import lost_of
from fedjob.protocols.analytics.statistics import SENT, Statistics
from fedjob.protocols.analytics.table import check_names, opened_table
from fedjob.protocols.analytics.tables import COVERAGE, PRESENT
from fedjob.protocols.answer_form import Count, Record, TableOf
from fedjob.protocols.base import (
    NUMBERS,
    Ask,
    Done,
    FederatedProtocol,
    Gathered,
    Instruction,
    Local,
    State,
    View,
)
from fedjob.protocols.step_inputs import PLAIN

COLUMNS = "columns"
_COUNTS = ("iqr_below", "iqr_above", "z_below", "z_above")
_STAGES = ("measures", "fences", "scores")
_PRECISION = 1e-12
_NO_VIEW = View(rounds=1, nodes=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers(FederatedProtocol):
    """How many values of a column lie far from the others, and where that begins.

    The result's `columns` has a row for each: `count, mean, std, q1, q3`, the `error` that the quartiles
    may have (wide only where nodes withhold counts), and for `iqr` and `z` the limits `_low` and
    `_high` with the numbers of values `_below` and `_above`; these are missing where a node withholds some.

    Args:
        columns: of numbers; none for all columns of numbers that every node has.
        whisker: multiple of the interquartile range beyond the quartiles, above 0.
        z: standard deviations from the mean, above 0.

    Raises:
        SpecError: a multiple is not above 0, or a column is named twice.
    """

    columns: tuple[str, ...] = ()
    whisker: float = 1.5
    z: float = 3.0

    name: ClassVar[str] = "outliers"
    family: ClassVar[str] = "analytics"
    needs_plan: ClassVar[bool] = False
    wants_every_node: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "columns", check_names("columns", self.columns))
        for name in ("whisker", "z"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise SpecError(f"{name} is a finite number above 0, not {shown(value)}")

    @property
    def needed_columns(self) -> Mapping[str, str]:
        return dict.fromkeys(self.columns, NUMBERS)

    # --- researcher --------------------------------------------------------------------------

    @property
    def needs_single(self) -> str:
        return ""

    def start(self, params: Mapping[str, Any]) -> State:
        return self._begun({"columns": list(self.columns), "nodes": [], "found": {}})

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {} if step == COLUMNS else dict.fromkeys((*SENT.get(step, ()), "measures"), PLAIN)

    def instruct(self, state: State, view: View) -> Ask | Done:
        to = tuple(state["nodes"]) or None
        if not state["columns"]:
            form = Record({"columns": TableOf(Count(1))})
            return Ask(step=COLUMNS, to=to, aggregator=Sum(), commit=False, schema={}, answer=form)
        if len(state["found"]) == len(_STAGES):
            return Done(self._report(state["found"], state["columns"]))
        asked = self._measures(state)
        ask = Statistics(**asked).instruct(state["inner"], view)
        assert isinstance(ask, Ask)
        last = len(state["found"]) + 1 == len(_STAGES)
        return replace(ask, shared={**ask.shared, "measures": asked}, to=to, commit=ask.commit and last)

    def finish(self, state: State, gathered: Gathered) -> State:
        nodes = sorted(gathered.replies)
        if lost_of(state["nodes"], gathered):
            return self._begun({"columns": list(self.columns), "nodes": nodes, "found": {}})
        if not state["columns"]:
            counts = gathered.total.value["columns"]
            shared = [name for name in sorted(counts) if counts[name] == len(nodes)]
            if not shared:
                raise Unsolvable("no column holds numbers at every node: name columns, or cast some first")
            return self._begun({**state, "columns": shared, "nodes": nodes})
        protocol = Statistics(**self._measures(state))
        state = {**state, "nodes": nodes, "inner": protocol.finish(state["inner"], gathered)}
        ended = protocol.instruct(state["inner"], _NO_VIEW)
        if not isinstance(ended, Done):
            return state
        stage = _STAGES[len(state["found"])]
        return self._begun({**state, "found": {**state["found"], stage: self._plain(stage, ended.value)}})

    def _begun(self, state: State) -> State:
        """Return the state at the beginning of a stage."""
        more = state["columns"] and len(state["found"]) < len(_STAGES)
        return {**state, "inner": Statistics(**self._measures(state)).start({}) if more else {}}

    def _measures(self, state: State) -> dict[str, Any]:
        """Return what the stage asks `Statistics` for."""
        columns, found = list(state["columns"]), state["found"]
        if not found:
            quartiles = {name: [0.25, 0.75] for name in columns}
            return {"mean": columns, "std": columns, "quantiles": quartiles, "precision": _PRECISION}
        limits = self._limits(found["measures"]["columns"], _STAGES[len(found)])
        edges = {name: _edges(*limits[name]) for name in columns if limits.get(name) is not None}
        return {"count": columns, "histogram": edges}

    def _limits(self, measured: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """Return column -> lower and upper limit; None where there are none."""
        limits: dict[str, Any] = {}
        for name, (mean, std, first, third) in measured.items():
            middle, reach = (
                (mean, self.z * std) if stage == "scores" else (0.0, self.whisker * (third - first))
            )
            low, high = (
                (middle - reach, middle + reach) if stage == "scores" else (first - reach, third + reach)
            )
            spread = stage == "fences" or std > 0  # equal values have no score
            limits[name] = [low, high] if spread and math.isfinite(low) and math.isfinite(high) else None
        return limits

    def _plain(self, stage: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a stage found, as a breakpoint keeps it."""
        kept = {"withheld": dict(value["withheld"]), "nodes": dict(value["nodes"])}
        if stage != "measures":
            present = value["columns"].set_index("column")["count"].astype(int).to_dict()
            return {**kept, "counts": _outside(value, present), "present": present}
        means = value["columns"].set_index("column")
        quantiles = value["quantiles"].set_index(["column", "fraction"])["value"].to_dict()
        measured = {
            name: [
                *(float(means.at[name, key]) for key in ("mean", "std")),
                *(float(quantiles.get((name, fraction), math.nan)) for fraction in (0.25, 0.75)),
            ]
            for name in means.index
        }
        tables = {key: value[key].astype(object).to_dict("records") for key in (COVERAGE, PRESENT)}
        errors = value["quantiles"].groupby("column")["error"].max().astype(float).to_dict()
        return {**kept, "columns": measured, "errors": errors, **tables}

    def _report(self, found: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
        import pandas as pd

        rows = []
        for name in (name for name in columns if name in found["measures"]["columns"]):
            mean, std, first, third = found["measures"]["columns"][name]
            count = found["fences"]["present"].get(name, 0)
            row: dict[str, Any] = {
                "column": name,
                "count": count,
                "mean": mean,
                "std": std,
                "q1": first,
                "q3": third,
                "error": found["measures"]["errors"].get(name, math.nan),
            }
            for stage, label in (("fences", "iqr"), ("scores", "z")):
                limits = self._limits(found["measures"]["columns"], stage)[name]
                nothing = (
                    (0, 0) if limits is None else (None, None)
                )  # without limits nothing lies outside of them
                below, above = found[stage]["counts"].get(name, nothing)
                low, high = limits or (math.nan, math.nan)
                row |= {
                    f"{label}_low": low,
                    f"{label}_high": high,
                    f"{label}_below": below,
                    f"{label}_above": above,
                }
            rows.append(row)
        coverage = pd.DataFrame(found["measures"][COVERAGE]).astype(
            {"filtered": "Int64", "incomplete": "Int64"}
        )
        withheld = [found[stage]["withheld"] for stage in _STAGES]
        return {
            "columns": pd.DataFrame(rows).astype({name: "Int64" for name in _COUNTS if rows}),
            "nodes": found["measures"]["nodes"],
            COVERAGE: coverage.astype({"rows": "int64", "used": "int64"}),
            PRESENT: pd.DataFrame(found["measures"][PRESENT], columns=["node", "column", "present"]),
            "withheld": {node: sum(counts.get(node, 0) for counts in withheld) for node in withheld[0]},
        }

    # --- node --------------------------------------------------------------------------------

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        if instruction.step != COLUMNS:
            self._check_measures(instruction["measures"], local.node)
            return Statistics(**instruction["measures"]).contribute(instruction, local)
        with opened_table(local) as table:
            numeric = [
                str(name) for name in table.frame if getattr(table.frame[name].dtype, "kind", "O") in "iuf"
            ]
            return Contribution({"columns": dict.fromkeys(numeric, 1)}, float(table.num_read))

    def _check_measures(self, asked: Any, node: str) -> None:
        """Refuse a stage that asks for something else than outliers of this protocol's own columns.

        Raises:
            NodeFailure: it does.
        """
        if isinstance(asked, Mapping):
            names = asked.get("mean", asked.get("count", ()))
            edges = asked.get("histogram", {})
            first = {
                "mean": names,
                "std": names,
                "quantiles": {name: [0.25, 0.75] for name in names},
                "precision": _PRECISION,
            }
            is_first = dict(asked) == first
            is_later = (
                set(asked) == {"count", "histogram"}
                and set(edges) <= set(names)
                and all(len(ends) == 2 for ends in edges.values())
            )
            own = list(self.columns)
            if (is_first or is_later) and (list(names) == own or not own):
                return
        raise NodeFailure(
            node, "not_permitted", "this stage asks for more than outliers of the columns that were named"
        )


def _outside(value: Mapping[str, Any], present: Mapping[str, int]) -> dict[str, list[int]]:
    """Return column -> values below and above its limits; without columns of which a node withheld some count."""
    counts: dict[str, list[int]] = {}
    for row in value["histogram"].to_dict("records") if "histogram" in value else ():
        place = 0 if math.isinf(row["low"]) else 2 if math.isinf(row["high"]) else 1
        counts.setdefault(row["column"], [0, 0, 0])[place] += int(row["count"])
    return {name: [found[0], found[2]] for name, found in counts.items() if sum(found) == present.get(name)}


def _edges(low: float, high: float) -> list[float]:
    return [low, high if low < high else math.nextafter(low, math.inf)]
