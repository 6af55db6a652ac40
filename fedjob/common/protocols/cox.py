"""Cox's proportional hazards by federated Newton steps.

Cox 1972, "Regression models and life-tables", https://doi.org/10.1111/j.2517-6161.1972.tb00899.x; with a
baseline that all nodes share as in Lu et al. 2015, "WebDISCO: a web service for distributed Cox model learning
without patient-level data sharing", https://doi.org/10.1093/jamia/ocv083. Ties are Efron's; the formulas
are in `common/analytics/survival.py`.

    b <- b + H^-1 g,    cov(b) = H^-1

- `baseline="node"`: every node has a baseline hazard of its own (a model stratified by node). A node sends its
  log-likelihood, gradient and H at every b; they add, and their total is enough.
- `baseline="shared"`: one baseline hazard. The patients at risk at a time are counted over all nodes, so a node sends
  the times of its events, and at each of them sums over the patients at risk and those with the event. From one
  time to the next these differ by few patients, often one: **they reveal single patients' times of event, and
  together with the coefficients their risks and columns.** A node whose owner sets `min_rows` refuses.

Either result is that of pooled rows; with a baseline for each node, of pooled rows stratified by node. A node keeps
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedjob.common.analytics.design import Design
from fedjob.common.analytics.model_tables import coefficient_table
from fedjob.common.analytics.newton import advance, begin, inverse
from fedjob.common.analytics.releases import Floats
from fedjob.common.analytics.survival import event_times, partial_likelihood, sums_at
from fedjob.common.analytics.table import Table
from fedjob.common.errors import NodeFailure, SpecError, Unsolvable
from fedjob.common.protocols.base import Instruction, State
from fedjob.common.protocols.regression import Regression

TIMES, NEWTON = "times", "newton"
BASELINES = ("node", "shared")

MAX_NUMBERS = 2_000_000
"""The most numbers that a node sends at once with a shared baseline: times x terms squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoxRegression(Regression):
    """Log hazard ratios with standard errors and p-values.

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

    def __post_init__(self) -> None:
        Regression.__post_init__(self)
        if self.baseline not in BASELINES:
            raise SpecError(f"baseline is one of {', '.join(BASELINES)}, not {self.baseline!r}")

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

    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        if model["times"] is None:
            return {**model, "times": sorted(float(time) for time in total)}
        events = total["events"] if self.baseline == "node" else sum(total["events"])
        if not events:
            raise Unsolvable("no node has a complete row with an event")
        found = total if self.baseline == "node" else partial_likelihood(total, np.asarray(model["at"]))
        return {**model, **advance(model, found), "hessian": found["hessian"], "events": events}

    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: Table
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
        sums = sums_at(terms, duration, event, at, event_times(duration, event))
        return {"events": sum(sums["events"]), **partial_likelihood(sums, at)}

    def check_outcomes(self, table: Table, others: Floats) -> None:
        if (others[:, 0] < 0).any():
            raise NodeFailure(
                table.node, "columns", f"column {self.duration!r} holds negative times at this node"
            )
        if not np.isin(others[:, 1], (0.0, 1.0)).all():
            raise NodeFailure(
                table.node, "columns", f"column {self.event!r} holds other numbers than 0 and 1 at this node"
            )

    def result(self, model: State, design: Design) -> dict[str, Any]:
        found, covariance = design.in_their_units(
            np.asarray(model["at"]), inverse(np.asarray(model["hessian"]))
        )
        coefficients = coefficient_table(design.terms, found, covariance)
        coefficients.insert(2, "hazard_ratio", np.exp(found))
        return {
            "coefficients": coefficients,
            "rows": model["count"],
            "events": model["events"],
            "log_likelihood": model["likelihood"],
            "iterations": model["iterations"],
        }
