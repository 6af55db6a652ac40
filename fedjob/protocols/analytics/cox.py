"""Cox's proportional hazards by federated Newton steps.

Cox 1972, "Regression models and life-tables", https://doi.org/10.1111/j.2517-6161.1972.tb00899.x; with a
baseline that all nodes share as in Lu et al. 2015, "WebDISCO: a web service for distributed Cox model learning
without patient-level data sharing", https://doi.org/10.1093/jamia/ocv083. Ties are Efron's; the formulas
stand below.

    b <- b + H^-1 g,    cov(b) = H^-1

- `baseline="node"`: every node has a baseline hazard of its own (a model stratified by node). A node sends its
  log-likelihood, gradient and H at every b; they add, and their total is enough.
- `baseline="shared"`: one baseline hazard. The patients at risk at a time are counted over all nodes, so a node sends
  the times of its events, and at each of them sums over the patients at risk and those with the event. From one
  time to the next these differ by few patients, often one: **they reveal single patients' times of event, and
  together with the coefficients their risks and columns.** A node whose owner sets `min_rows` refuses.

Either result is that of pooled rows; with a baseline for each node, of pooled rows stratified by node. A node keeps
nothing. With a shared baseline the sums at the last coefficients give the baseline hazard, too, and with it the survival
for given rows (`survival/breslow.py`); with a baseline for each node they don't, and no node releases its own.

The partial likelihood with Efron's ties, from sums at each time of an event.

Efron 1977, "The efficiency of Cox's likelihood function for censored data",
https://doi.org/10.1080/01621459.1977.10480613

At a time with d events, for l = 0 .. d - 1, with r = exp(x b), R those still at risk and D those with the event:

    phi_l = sum_R r - l/d sum_D r
    log L = sum_D x b - sum_l log phi_l
    g     = sum_D x   - sum_l z_l / phi_l                     z_l = sum_R r x - l/d sum_D r x
    H     = sum_l (Z_l / phi_l - z_l z_l' / phi_l^2)          Z_l = sum_R r x x' - l/d sum_D r x x'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import NodeFailure, SpecError, Unsolvable
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.base import Regression
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.newton import advance, begin, check_point, inverse
from fedjob.protocols.analytics.survival.breslow import baseline_of, hazard_sums
from fedjob.protocols.analytics.table import AuditedTable
from fedjob.protocols.analytics.tables import coefficient_table
from fedjob.protocols.answer_form import AnswerForm, Count, Number, Numbers, Record, Row, TableOf
from fedjob.protocols.base import Instruction, State

TIMES, NEWTON = "times", "newton"
BASELINES = ("node", "shared")

MAX_NUMBERS = 2_000_000
"""The most numbers that a node sends at once with a shared baseline: times x terms squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoxRegression(Regression):
    """Log hazard ratios with standard errors and p-values; with a shared baseline the survival, too.

    Args:
        duration: column of times, 0 or more.
        event: column of 1 where the time is that of an event, 0 where the patient was last seen without one.
        features: the explaining columns.
        categorical: the features that are categories; the first category, in order, is the reference.
        baseline: `node` or `shared`; the module's text has what each reveals.

    Raises:
        SpecError: there are no features, the outcome is one of them, or the baseline is another.
    """

    duration: str
    event: str
    baseline: str = "node"

    name: ClassVar[str] = "cox_regression"
    sends: ClassVar[tuple[str, ...]] = ("at", "times")

    def __post_init__(self) -> None:
        check_kinds(self)
        Regression.__post_init__(self)
        if self.baseline not in BASELINES:
            raise SpecError(f"baseline is one of {', '.join(BASELINES)}, not {shown(self.baseline)}")

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (self.duration, self.event)

    @property
    def centred(self) -> bool:
        return True  # a constant factor of all risks is part of the baseline

    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        times: list[float] | None = None if self.baseline == "shared" else []
        return {"times": times, "events": 0, "count": sums["count"], **begin(len(design.terms))}

    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        if model["times"] is None:
            return TIMES, {}, False
        if model["done"]:
            return None
        return NEWTON, {"at": model["at"], "times": model["times"]}, bool(model["last"])

    def answer_form(self, model: State, design: Design) -> AnswerForm:
        if model["times"] is None:
            return TableOf(Count(1), of_numbers=True)
        width = len(design.terms)
        if self.baseline == "node":
            derivatives = {"gradient": Numbers((width,)), "hessian": Numbers((width, width))}
            return Record({"events": Count(), "likelihood": Number(), **derivatives})
        times = len(model["times"])
        sums = Numbers((times,), Row((Number(0.0), Numbers((width,)), Numbers((width, width)))))
        return Record(
            {
                "events": Numbers((times,), Count()),
                "linear": Numbers((times, width)),
                "risk": sums,
                "tied": sums,
            }
        )

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        if model["times"] is None:
            return {**model, "times": sorted(float(time) for time in total)}
        events = total["events"] if self.baseline == "node" else sum(total["events"])
        if not events:
            raise Unsolvable("no node has a complete row with an event")
        found = total if self.baseline == "node" else partial_likelihood(total, np.asarray(model["at"]))
        after = {**model, **advance(model, found), "hessian": found["hessian"], "events": events}
        if after["done"] and self.baseline == "shared":
            after |= {"events_at": list(total["events"]), "hazard_sums": hazard_sums(total)}
        return after

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        duration, event = others[:, 0], others[:, 1]
        if self.baseline == "shared" and table.min_rows:
            raise NodeFailure(
                table.node,
                "min_rows",
                "a shared baseline needs sums that differ by single patients, and the owner sets a minimum "
                'of rows: ask with baseline="node"',
            )
        if instruction.step == TIMES:
            return {repr(time): 1 for time in event_times(duration, event)}
        at = np.asarray(instruction["at"])
        terms = design.matrix(values)
        if self.baseline == "shared":
            times = instruction["times"]
            if len(times) * len(at) ** 2 > MAX_NUMBERS:
                raise NodeFailure(
                    table.node, "columns", f"{len(times)} times of events are too many for {len(at)} terms"
                )
            return sums_at(terms, duration, event, at, times)

        def weights(linear: Floats) -> tuple[Floats, ...]:
            risk = np.exp(linear - linear.max(initial=0.0))
            return (risk / risk.sum(),)

        check_point(table, self.name, design, at, weights)
        sums = sums_at(terms, duration, event, at, event_times(duration, event))
        return {"events": sum(sums["events"]), **partial_likelihood(sums, at)}

    def check_outcomes(self, table: AuditedTable, others: Floats) -> None:
        if (others[:, 0] < 0).any():
            raise NodeFailure(
                table.node, "columns", f"column {shown(self.duration)} holds negative times at this node"
            )
        if not np.isin(others[:, 1], (0.0, 1.0)).all():
            raise NodeFailure(
                table.node,
                "columns",
                f"column {shown(self.event)} holds other numbers than 0 and 1 at this node",
            )

    def result(self, model: State, design: Design) -> dict[str, Any]:
        found, covariance = design.in_their_units(
            np.asarray(model["at"]), inverse(np.asarray(model["hessian"]))
        )
        coefficients = coefficient_table(design.terms, found, covariance)
        coefficients.insert(2, "hazard_ratio", np.exp(found))
        value = {
            "coefficients": coefficients,
            "rows": model["count"],
            "events": model["events"],
            "log_likelihood": model["likelihood"],
            "iterations": model["iterations"],
        }
        if self.baseline == "node":
            return value
        sums = model["hazard_sums"]
        return value | baseline_of(model["times"], model["events_at"], sums, design, found, covariance)


SETS = ("risk", "tied")


def event_times(duration: Floats, event: Floats) -> list[float]:
    """Return the times at which there is an event, ascending."""
    times: list[float] = np.unique(duration[event == 1]).tolist()
    return times


def sums_at(
    terms: Floats, duration: Floats, event: Floats, at: Floats, times: Sequence[float]
) -> dict[str, Any]:
    """Return for each time the sums over those at risk and over those with the event, which add over nodes.

    Args:
        terms: of shape (rows, terms).
        at: the coefficients.
        times: ascending.
    """
    risk = np.exp(terms @ at)
    size = terms.shape[1]
    running = _Sums(size)
    order = np.argsort(-duration, kind="stable")
    place = 0
    found: dict[str, Any] = {"events": [], "linear": [], "risk": [], "tied": []}
    for time in reversed(times):
        upto = place + int(np.searchsorted(-duration[order[place:]], -time, side="right"))
        running.add(terms, risk, order[place:upto])
        place = upto
        tied = np.flatnonzero((duration == time) & (event == 1))
        there = _Sums(size)
        there.add(terms, risk, tied)
        found["events"].append(len(tied))
        found["linear"].append(terms[tied].sum(axis=0).tolist())
        found["risk"].append(running.plain())
        found["tied"].append(there.plain())
    return {name: values[::-1] for name, values in found.items()}


class _Sums:
    """Sums of r, r x and r x x' over rows that are added."""

    def __init__(self, size: int) -> None:
        self.zero, self.one, self.two = 0.0, np.zeros(size), np.zeros((size, size))

    def add(self, terms: Floats, risk: Floats, rows: Any) -> None:
        some, weights = terms[rows], risk[rows]
        self.zero += float(weights.sum())
        self.one = self.one + weights @ some
        self.two = self.two + (some * weights[:, None]).T @ some

    def plain(self) -> list[Any]:
        return [self.zero, self.one.tolist(), self.two.tolist()]


def partial_likelihood(sums: Mapping[str, Any], at: Floats) -> dict[str, Any]:
    """Return log-likelihood, gradient and negative second derivatives from the sums of `sums_at`."""
    likelihood, gradient, hessian = 0.0, np.zeros(len(at)), np.zeros((len(at), len(at)))
    for number, linear, risk, tied in zip(*(sums[name] for name in ("events", "linear", *SETS)), strict=True):
        likelihood += float(np.asarray(linear) @ at)
        gradient = gradient + np.asarray(linear)
        for earlier in range(number):
            part = earlier / number
            zero = risk[0] - part * tied[0]
            one = (np.asarray(risk[1]) - part * np.asarray(tied[1])) / zero
            two = (np.asarray(risk[2]) - part * np.asarray(tied[2])) / zero
            likelihood -= math.log(zero)
            gradient = gradient - one
            hessian = hessian + two - np.outer(one, one)
    return {"likelihood": likelihood, "gradient": gradient.tolist(), "hessian": hessian.tolist()}
