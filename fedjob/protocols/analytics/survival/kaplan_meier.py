"""The survival curve of Kaplan and Meier over all nodes, from counts on a grid of times that all share.

Kaplan, Meier 1958, "Nonparametric estimation from incomplete observations", https://doi.org/10.1080/01621459.1958.10501452

    S(t) = prod over grid times u <= t of (1 - d_u / n_u)

with d_u events between the grid time before and u, and n_u rows at risk: those whose events and last observations come no
earlier. So the result is the curve of all rows together with their times rounded up to the grid; where every time is on the
grid it is exact. Rows that are observed beyond the grid are at risk to its end.

Without a grid of the researcher's every node first says below which power of two its times are; the smallest one for
all is divided into equal parts.

What leaks: each node's numbers of events and of last observations at each grid time in each group, to the researcher; their
total is enough. Where an owner sets `min_rows`, the counts of several grid times are released together, at the last of them,
so that no count, and no difference from an earlier release, is about fewer rows; a group with fewer events, or
with fewer rows without one, is withheld. Then the smallest power of two leaves out up to `min_rows` - 1 of the longest times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.sum import Sum
from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.privacy.releases import Floats, Release, Rows
from fedjob.protocols.analytics.base import COVERAGE_FORM, coverage_of, lost_of, of_each
from fedjob.protocols.analytics.cells import MAX_CELLS, bounds_below, groups_of
from fedjob.protocols.analytics.measures import MAX_GROUPS
from fedjob.protocols.analytics.survival.life_table import logrank_table, median_table, survival_table
from fedjob.protocols.analytics.table import AuditedTable, check_names, numbers, opened_table
from fedjob.protocols.analytics.tables import COVERAGE, coverage_table
from fedjob.protocols.answer_form import AnswerForm, Count, Numbers, Record, TableOf
from fedjob.protocols.base import (
    ANY,
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

RANGE, COUNTS = "range", "counts"

MAX_TIMES = 5000
"""Times of a grid."""

POWERS = tuple(math.ldexp(1.0, exponent) for exponent in range(-64, 129))
"""The ends that a grid may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanMeier(FederatedProtocol):
    """Survival curves with intervals, over all nodes and in groups; between groups the log-rank test.

    Args:
        duration: column of times, 0 or more.
        event: column of 1 where the time is that of an event, 0 where the row was last observed without one.
        by: columns by whose values rows are grouped; a row where one is missing is in no group.
        times: the grid, ascending times above 0; if empty, equal parts of the smallest power of two that no time is
            above: 128 parts of 128 months are whole months.
        bins: the number of these parts, 2 to 5000.

    Raises:
        SpecError: a column is named twice, or grid or parts are not of this form.
    """

    duration: str
    event: str
    by: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    bins: int = 128

    name: ClassVar[str] = "kaplan_meier"
    family: ClassVar[str] = "analytics"
    needs_plan: ClassVar[bool] = False
    wants_every_node: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "by", check_names("by", self.by))
        check_names("KaplanMeier", [self.duration, self.event, *self.by])
        times = tuple(float(time) for time in self.times)
        object.__setattr__(self, "times", times)
        if not all(low < high for low, high in pairwise((0.0, *times))) or not all(map(math.isfinite, times)):
            raise SpecError(f"times ascend from above 0 and are finite; found {shown(times)}")
        if not 2 <= self.bins <= MAX_TIMES or len(times) > MAX_TIMES:
            raise SpecError(f"a grid has 2 to {MAX_TIMES} times; found {len(times) or self.bins}")

    @property
    def needed_columns(self) -> Mapping[str, str]:
        return {self.duration: NUMBERS, self.event: NUMBERS, **dict.fromkeys(self.by, ANY)}

    # --- researcher --------------------------------------------------------------------------

    @property
    def needs_single(self) -> str:
        return ""

    def start(self, params: Mapping[str, Any]) -> State:
        times = [0.0, *self.times] if self.times else []
        return {"times": times, "nodes": {}, "groups": None, "coverage": {}, "withheld": {}, "joined": {}}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {"times": PLAIN} if step == COUNTS else {}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if state["groups"] is not None:
            return Done(self._report(state))
        times = state["times"]
        to = tuple(state["nodes"]) or None
        if not times:
            form: AnswerForm = Record({"reached": Numbers((len(POWERS),), Count(1))})
            return Ask(step=RANGE, to=to, aggregator=Sum(), schema={}, answer=form, commit=False)
        counts = Numbers((len(times),), Count())
        group = Record({"events": counts, "censored": counts})
        form = Record(
            {
                "groups": TableOf(group, MAX_GROUPS),
                "withheld": Count(),
                "joined": Count(),
                "coverage": COVERAGE_FORM,
            }
        )
        return Ask(
            step=COUNTS,
            shared={"times": times},
            to=to,
            aggregator=Sum(),
            schema={},
            answer=form,
            commit=True,
        )

    def finish(self, state: State, gathered: Gathered) -> State:
        if lost_of(state["nodes"], gathered):
            return {**self.start({}), "nodes": dict.fromkeys(gathered.replies, 0)}
        total = gathered.total.value
        if not state["times"]:
            end = POWERS[list(total["reached"]).index(max(total["reached"]))]
            times = [end * part / self.bins for part in range(self.bins + 1)]
            return {**state, "times": times, "nodes": dict.fromkeys(gathered.replies, 0)}
        return {
            **state,
            "groups": total["groups"],
            "nodes": {
                node: None if reply.value is None else reply.num_examples
                for node, reply in gathered.replies.items()
            },
            "coverage": coverage_of(gathered),
            "withheld": of_each(gathered, lambda value: value["withheld"]),
            "joined": of_each(gathered, lambda value: value["joined"]),
        }

    def _report(self, state: State) -> dict[str, Any]:
        times, groups = state["times"], state["groups"]
        found: dict[str, Any] = {"medians": median_table(self.by, times, groups)}
        if len(groups) > 1:
            found["logrank"] = logrank_table(groups)
        return {
            **found,
            "survival": survival_table(self.by, times, groups),
            "nodes": dict(state["nodes"]),
            COVERAGE: coverage_table(state["coverage"]),
            "withheld": dict(state["withheld"]),
            "joined": dict(state["joined"]),
        }

    # --- node --------------------------------------------------------------------------------

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        with opened_table(local) as table:
            duration, event = self._columns(table)
            if instruction.step == RANGE:
                return self._range(table, duration)
            found = self._counts(table, duration, event, instruction["times"])
            used = sum(sum(group["events"]) + sum(group["censored"]) for group in found["groups"].values())
            if table.min_rows and not used:
                raise table.withheld("every one of these numbers")
            return Contribution({**found, "coverage": table.coverage(used)}, float(used))

    def _columns(self, table: AuditedTable) -> tuple[Floats, Floats]:
        """Return times and events, NaN in both where one is missing.

        Raises:
            NodeFailure: with reason `columns`: a time is negative, or an event neither 0 nor 1.
        """
        duration, event = (numbers(table.node, table.frame, name) for name in (self.duration, self.event))
        missing = np.isnan(duration) | np.isnan(event)
        duration[missing] = event[missing] = np.nan
        for name, odd, words in (
            (self.duration, duration < 0, "negative times"),
            (self.event, ~np.isin(event[~missing], (0.0, 1.0)), "other numbers than 0 and 1"),
        ):
            if odd.any():
                raise NodeFailure(table.node, "columns", f"column {shown(name)} holds {words} at this node")
        return duration, event

    def _range(self, table: AuditedTable, duration: Floats) -> Contribution:
        present = np.sort(duration[~np.isnan(duration)])
        rank = max(table.min_rows, 1)
        if table.min_rows and 0 < len(present) < rank:
            raise table.withheld("the range of the times")
        longest = float(present[-rank]) if len(present) else 0.0
        reached = [int(longest <= power) for power in POWERS]
        return Contribution({"reached": reached}, float(len(present)))

    def _counts(
        self, table: AuditedTable, duration: Floats, event: Floats, times: list[float]
    ) -> dict[str, Any]:
        groups, ungrouped = groups_of(table, self.by)
        if len(groups) * 2 * len(times) > 50 * MAX_CELLS:
            raise NodeFailure(
                table.node,
                "columns",
                f"{len(groups)} groups at {len(times)} times are too many numbers from one node: ask for fewer",
            )
        # how many rows are incomplete is told of all groups together
        excused = np.union1d(ungrouped, np.flatnonzero(np.isnan(duration)))
        released: dict[str, Any] = {}
        withheld = joined = 0
        for group, rows in groups.items():
            present = rows[~np.isnan(duration[rows])]
            seen = (event[present] == 1) & (duration[present] <= times[-1])
            halves = [present[seen], present[~seen]]
            tellings = [
                Release(present, excused=excused),
                *(Release(half, excused=excused) for half in halves),
            ]
            if not len(present) or not all(table.admit(tellings)):
                withheld += bool(len(present))
                continue
            counts = [_at_times(table, duration, half, excused, times) for half in halves]
            joined += sum(late for _, late in counts)
            released[group] = {"events": counts[0][0], "censored": counts[1][0]}
        return {"groups": released, "withheld": withheld, "joined": joined}


def _at_times(
    table: AuditedTable, duration: Floats, rows: Rows, excused: Rows, times: list[float]
) -> tuple[list[int], int]:
    """Return how many of these rows there are at each time, and at how many times some wait for a later one.

    Those beyond the last time count at it.
    """
    edges = [*np.nextafter(times[:-1], np.inf).tolist(), math.inf]
    least, most = bounds_below(table, duration, rows, excused, edges)
    counts = np.diff(least, prepend=0).tolist()
    return counts, sum(low < high for low, high in zip(least, most, strict=True))
