"""Descriptive statistics of all nodes together, from sums.

Every node reports counts and sums of its rows, which add; the researcher divides. Variances
and covariances come of a second ask, for the differences from the mean of all, so that nothing
cancels (the two-pass algorithm; Chan, Golub, LeVeque 1983, "Algorithms for computing the
sample variance", https://doi.org/10.1080/00031305.1983.10483115):

    mean = sum_k sum(x_k) / sum_k n_k
    variance = (sum_k sum((x_k - c)^2) - (sum_k sum(x_k - c))^2 / n) / (n - 1)      c: near the mean

A quantile is found by counting: how many values lie below each of some edges; then below edges that
divide the part that it must lie in, and so on. Its error is the width of the last part.

Nothing stays at a node but, where its owner sets `min_rows`, the record of what was released
about which rows (see `privacy/releases.py`): a number about fewer rows is withheld, and so is one
from which, with all that was released before to anybody, such a number follows. `min` and `max` are values of
single rows: a node with `min_rows` releases them where the dataset's `option extremes` says yes.

What leaks: each node's counts and sums, to the researcher. Their total is enough, but for `min` and `max`
and for who withheld how many.

Under differential privacy of records there is one ask, for whole numbers to which each node adds noise of its own; see
`private_statistics`. Nothing is withheld then, and nothing else leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.sum import Sum
from fedjob.common.errors import SpecError
from fedjob.privacy.protect import NodeDP, Protect
from fedjob.protocols.analytics import tables
from fedjob.protocols.analytics.base import COVERAGE_FORM, coverage_of, lost_of, of_each
from fedjob.protocols.analytics.cells import (
    centred_sums,
    extremes,
    first_sums,
    present_values,
    quantile_counts,
    released_rows,
)
from fedjob.protocols.analytics.measures import (
    Measures,
    centred_form,
    first_form,
    quantile_form,
    together,
)
from fedjob.protocols.analytics.private_statistics.answer import (
    NOISED,
    VARIANCES,
    noisy_contribution,
    noisy_form,
)
from fedjob.protocols.analytics.private_statistics.questions import questions_of
from fedjob.protocols.analytics.private_statistics.report import NOISE, noisy_report
from fedjob.protocols.analytics.quantiles import Bracket, edges_within, narrowed, ranks_of, steps_for
from fedjob.protocols.analytics.table import AuditedTable, opened_table
from fedjob.protocols.answer_form import AnswerForm, Record
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

FIRST, CENTRED, REFINE = "count", "centre", "refine"
SENT = {CENTRED: ("spread", "joint", "brackets"), REFINE: ("brackets",)}
"""Step -> names of what is sent with it."""


_OF_NODES = ("coverage", "extremes", "quantiles", "withheld")
"""The parts of the first answers that are kept for each node, or narrowed, and not as sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(Measures, FederatedProtocol):
    """Statistics of columns, over all nodes and in groups. Each field names the columns that it is for.

    What is missing in a column is left out of its measures; for covariance and
    correlation a row is left out where any of their columns is missing.

    Args:
        count: present values; `missing`: absent ones.
        variance, std: with n - 1 in the denominator, as pandas has them.
        min, max: where owners allow.
        histogram: column -> ascending edges of its bins, each with its low end; the last has both ends.
        quantiles: column -> fractions from 0 to 1, between two values as numpy's `linear`; or columns, for the
            quartiles.
        categories: how often each value occurs, for columns of texts and numbers.
        covariance, correlation: two columns or more.
        table: columns whose combinations of values are counted: a contingency table.
        by: columns by whose values rows are grouped; a row where one is missing is in no group.
        precision: of quantiles: their error, as a part of their value, from 1e-15 to 0.5.
        bounds: under differential privacy, of each column with a mean, variance, quantile or covariance: its least and
            largest value, from what is known of such values. Others count as the nearest of both.
        levels: under differential privacy, of each column in `categories`, `table` or `by`: the categories to count.

    Raises:
        SpecError: nothing is asked for, or not in this form.
    """

    name: ClassVar[str] = "statistics"
    family: ClassVar[str] = "analytics"
    needs_plan: ClassVar[bool] = False
    wants_every_node: ClassVar[bool] = True

    @property
    def needed_columns(self) -> Mapping[str, str]:
        numbers = together(
            self.summed_columns,
            self.min,
            self.max,
            tuple(self.histogram),
            tuple(self.quantiles),
            self.joint_columns,
        )
        return {
            name: NUMBERS if name in numbers else ANY for name in together(self.all_columns, self.by, numbers)
        }

    # --- researcher --------------------------------------------------------------------------

    @property
    def needs_single(self) -> str:
        if self.min or self.max:
            return "min and max are every node's own smallest and largest values"
        return ""

    def start(self, params: Mapping[str, Any]) -> State:
        return {
            "asked": 0,
            "sums": {},
            "counts": {},
            "nodes": {},
            "coverage": {},
            "present": {},
            "extremes": {},
            "withheld": {},
            "brackets": {},
            "noisy": {},
        }

    def check_protection(self, protect: Protect) -> None:
        if isinstance(protect.dp, NodeDP):
            raise SpecError(
                "statistics do not run under NodeDP: use Protect(dp=RecordDP(...)), with secagg or without"
            )
        if protect.dp is not None:
            questions_of(self)
        elif given := [name for name in ("bounds", "levels") if getattr(self, name)]:
            raise SpecError(
                f"Statistics({given[0]}=...) is for differential privacy, and the job has none: run it with "
                f"Job(..., protect=RecordDP(epsilon=1.0, delta=1e-5)), or leave {given[0]} out"
            )

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return dict.fromkeys(SENT.get(step, ()), PLAIN)

    def instruct(self, state: State, view: View) -> Ask | Done:
        if state["noisy"]:
            return Done(self._noisy_report(state["noisy"]))
        if view.private:
            return Ask(step=NOISED, aggregator=Sum(), schema={}, answer=noisy_form(self))
        steps = self._steps()
        if state["asked"] == len(steps):
            return Done(self._report(state))
        step = steps[state["asked"]]
        shared: dict[str, Any] = {}
        if step == CENTRED:
            shared |= self._centres(state["sums"])
        if step != FIRST:
            shared["brackets"] = _open_brackets(state["brackets"])
        return Ask(
            step=step,
            shared=shared,
            to=tuple(state["nodes"]) or None,
            aggregator=Sum(),
            schema={},
            answer=self._answer_form(step, shared.get("brackets")),
            commit=state["asked"] + 1 == len(steps),
        )

    def finish(self, state: State, gathered: Gathered) -> State:
        if (noisy := gathered.total.value) and NOISED in noisy:
            replies = gathered.replies.items()
            nodes = {node: None if reply.value is None else round(reply.weight) for node, reply in replies}
            return {**state, "noisy": {**noisy, "nodes": nodes}}
        if lost_of(state["nodes"], gathered):
            return {**self.start({}), "nodes": dict.fromkeys(gathered.replies, 0)}
        step = self._steps()[state["asked"]]
        total = gathered.total.value
        state = {**state, "asked": state["asked"] + 1}
        if step == FIRST:
            released = {
                node: reply.value.get("extremes", {})
                for node, reply in gathered.replies.items()
                if reply.value is not None
            }
            state |= {
                "sums": {key: total[key] for key in total if key not in _OF_NODES},
                "nodes": {
                    node: None if reply.value is None else reply.num_examples
                    for node, reply in gathered.replies.items()
                },
                "withheld": of_each(gathered, lambda value: value["withheld"]),
                "coverage": coverage_of(gathered),
                "present": of_each(gathered, lambda value: present_values(self, value)),
                "extremes": released,
            }
        state["sums"] = {
            **state["sums"],
            **{key: total[key] for key in ("centred", "products") if key in total},
        }
        return {**state, **self._narrow(state, total.get("quantiles", {}))}

    def _answer_form(self, step: str, brackets: Mapping[str, Any] | None) -> AnswerForm:
        if step == FIRST:
            parts = first_form(self)
            return Record(
                {**parts, "coverage": COVERAGE_FORM}, optional=set(parts) - {"withheld", "quantiles"}
            )
        parts = centred_form(self) if step == CENTRED else {}
        if self.quantiles:
            parts |= quantile_form(self, brackets)
        return Record(parts, optional=set(parts) - {"quantiles"})

    def _steps(self) -> list[str]:
        """Return the asks: one, another where something is centred, and as many as the quantiles take."""
        centred = [CENTRED] if self.spread_columns or self.joint_columns else []
        refine = [REFINE] * steps_for(self.precision) if self.quantiles else []
        return [FIRST, *centred, *refine[len(centred) :]]

    def _centres(self, sums: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return a value near the mean of each column, over all groups: of its present values, and of joint ones."""
        spread = [
            (columns[name]["count"], name, columns[name]["sum"])
            for columns in sums.get("columns", {}).values()
            for name in self.spread_columns
            if name in columns
        ]
        joint = [
            (count, name, total)
            for count, totals in sums.get("joint", {}).values()
            for name, total in zip(self.joint_columns, totals, strict=True)
        ]
        return {
            "spread": {name: _mean_of(spread, name) for name in self.spread_columns},
            "joint": {name: _mean_of(joint, name) for name in self.joint_columns},
        }

    def _narrow(self, state: State, released: Mapping[str, Any]) -> State:
        counts = state["counts"]
        brackets = {group: dict(columns) for group, columns in state["brackets"].items()}
        if not counts:
            counts = {
                g: {name: one["count"] for name, one in columns.items()} for g, columns in released.items()
            }
        for group, columns in released.items():
            for name, one in columns.items():
                before = brackets.setdefault(group, {}).get(name)
                if before is None:
                    ranks = {rank for q in self.quantiles[name] for rank in ranks_of(q, one["count"])[:2]}
                    before = [_plain(Bracket(rank)) for rank in sorted(ranks)] if one["count"] else []
                brackets[group][name] = _narrowed(before, one["brackets"])
        return {"counts": counts, "brackets": brackets}

    def _report(self, state: State) -> dict[str, Any]:
        sums = state["sums"]
        found: dict[str, Any] = {"rows": tables.count_table(self, sums)}
        if self.counted_columns:
            found["columns"] = tables.column_table(self, sums, state["extremes"])
        if self.quantiles:
            brackets = {
                group: {name: {one[0]: Bracket(*one) for one in ones} for name, ones in columns.items()}
                for group, columns in state["brackets"].items()
            }
            found["quantiles"] = tables.quantile_table(self, state["counts"], brackets)
        if self.histogram:
            found["histogram"] = tables.histogram_table(self, sums)
        if self.categories:
            found["categories"] = tables.category_table(self, sums)
        if self.table:
            found["table"] = tables.contingency_table(self, sums)
        if self.covariance:
            found["covariance"] = tables.joint_table(self, sums, scaled=False)
        if self.correlation:
            found["correlation"] = tables.joint_table(self, sums, scaled=True)
        return {
            **found,
            "nodes": dict(state["nodes"]),
            tables.COVERAGE: tables.coverage_table(state["coverage"]),
            tables.PRESENT: tables.present_table(state["present"]),
            "withheld": dict(state["withheld"]),
        }

    def _noisy_report(self, noisy: Mapping[str, Any]) -> dict[str, Any]:
        deviation = math.sqrt(noisy[VARIANCES][0])
        return {
            **noisy_report(self, noisy[NOISED], noisy[VARIANCES]),
            "nodes": dict(noisy["nodes"]),
            NOISE: {"sums": len(noisy[NOISED]), "count": deviation},
        }

    # --- node --------------------------------------------------------------------------------

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        if local.noise or instruction.step == NOISED:
            return noisy_contribution(self, local, asked=instruction.step == NOISED)
        with opened_table(local) as table:
            weight = released_rows(self, table)
            if table.min_rows and not weight:
                raise table.withheld("every one of these numbers")
            released = self._released(instruction, table)
            if instruction.step == FIRST:
                released["coverage"] = table.coverage(weight)
            return Contribution(released, float(weight))

    def _released(self, instruction: Instruction, table: AuditedTable) -> dict[str, Any]:
        released: dict[str, Any] = {}
        if instruction.step == FIRST:
            released = first_sums(self, table)
            if (self.min or self.max) and table.releases_extremes:
                released["extremes"] = extremes(self, table)
            elif self.min or self.max:
                released["withheld"] += len(together(self.min, self.max))
        if instruction.step == CENTRED:
            released = centred_sums(self, table, instruction["spread"], instruction["joint"])
        if instruction.step != FIRST and self.quantiles:
            released |= quantile_counts(self, table, instruction["brackets"])
        return released


def _mean_of(found: list[tuple[int, str, float]], wanted: str) -> float:
    count = sum(count for count, name, _ in found if name == wanted)
    return math.fsum(total for _, name, total in found if name == wanted) / count if count else 0.0


def _plain(bracket: Bracket) -> list[Any]:
    return [bracket.rank, bracket.low, bracket.high, bracket.parts]


def _span(one: list[Any]) -> tuple[float, float]:
    return one[1], one[2]


def _open_brackets(brackets: Mapping[str, Mapping[str, list[list[Any]]]]) -> dict[str, Any]:
    """Return the parts that are still to be divided, each once."""
    return {
        group: {name: [list(span) for span in _spans(ones)] for name, ones in columns.items()}
        for group, columns in brackets.items()
    }


def _spans(ones: list[list[Any]]) -> list[tuple[float, float]]:
    return sorted({_span(one) for one in ones if one[3]})


def _narrowed(before: list[list[Any]], counted: list[Any]) -> list[list[Any]]:
    spans = _spans(before)
    after = []
    for one in before:
        if one[3]:
            least, most = counted[spans.index(_span(one))]
            one = _plain(narrowed(Bracket(*one), edges_within(*_span(one)), least, most))
        after.append(one)
    return after
