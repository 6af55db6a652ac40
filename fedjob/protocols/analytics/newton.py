"""Newton's method where each step is an ask: pure state in, state out.

    beta <- beta + H^-1 g        g, H: gradient and negative second derivatives of the log-likelihood

A step that lowers the log-likelihood is halved.

Where an owner sets `min_rows`, a node holds each point at which it is asked against the points that it answered
before: neither the weights of its rows at a point, nor their differences from those at another, may lie on few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjob.common.errors import Unsolvable
from fedjob.privacy.isolation import MAX_POINTS, few_weigh
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.table import AuditedTable, categories

TOLERANCE = 1e-9
"""The size of a step after which the method ends, in standard deviations of the terms."""

MAX_ITERATIONS = 50
MAX_HALVINGS = 30
_MAX_COEFFICIENT = 50.0
"""The largest coefficient per standard deviation; a larger one counts as growing without end."""

_SEPARATE = (
    "the coefficients grow without end: some columns separate the outcomes; leave them out or join categories"
)

State = dict[str, Any]


def begin(size: int, first: Sequence[float] = ()) -> State:
    """Return the state before the first ask, with all coefficients 0 or at a first guess."""
    return {
        "at": [*first, *([0.0] * (size - len(first)))],
        "from": [],
        "step": [],
        "likelihood": -math.inf,
        "iterations": 0,
        "halvings": 0,
        "last": False,
        "done": False,
    }


def advance(state: Mapping[str, Any], found: Mapping[str, Any]) -> State:
    """Return the state after the nodes' answers for the coefficients in `state["at"]`.

    Args:
        found: `likelihood`, `gradient` and `hessian` there, the sums of all nodes.

    Raises:
        Unsolvable: terms depend on each other, columns separate the outcomes, or it does not converge.
    """
    likelihood = float(found["likelihood"])
    slack = 1e-10 * (abs(state["likelihood"]) if math.isfinite(state["likelihood"]) else 0.0)
    if not math.isfinite(likelihood) or likelihood < state["likelihood"] - slack:
        return _halved(state)
    if state["last"]:
        return {**state, "likelihood": likelihood, "done": True}
    at, gradient = np.asarray(state["at"]), np.asarray(found["gradient"])
    try:
        step = solve(np.asarray(found["hessian"]), gradient)
    except Unsolvable as error:
        raise Unsolvable(_SEPARATE if state["iterations"] else str(error)) from error
    after = at + step
    if np.abs(after).max(initial=0.0) > _MAX_COEFFICIENT:
        raise Unsolvable(_SEPARATE)
    if state["iterations"] >= MAX_ITERATIONS:
        raise Unsolvable(f"no convergence after {MAX_ITERATIONS} iterations")
    return {
        **state,
        "at": after.tolist(),
        "from": at.tolist(),
        "step": step.tolist(),
        "likelihood": likelihood,
        "iterations": state["iterations"] + 1,
        "halvings": 0,
        "last": bool(np.abs(step).max(initial=0.0) < TOLERANCE),
    }


def _halved(state: Mapping[str, Any]) -> State:
    if not state["step"] or state["halvings"] >= MAX_HALVINGS:
        raise Unsolvable("no step raises the likelihood: look for outcomes or columns of extreme size")
    step = np.asarray(state["step"]) / 2
    return {
        **state,
        "at": (np.asarray(state["from"]) + step).tolist(),
        "step": step.tolist(),
        "halvings": state["halvings"] + 1,
    }


def solve(matrix: Floats, right: Floats) -> Floats:
    """Return the solution of a symmetric system of equations.

    Raises:
        Unsolvable: it has no unique solution.
    """
    scales = np.sqrt(np.clip(np.diagonal(matrix), 0, None))
    if not (scales > 0).all() or not np.isfinite(matrix).all():
        raise Unsolvable("the data do not determine the model: a term has no variation where it matters")
    scaled = matrix / np.outer(scales, scales)
    if np.linalg.cond(scaled) > 1e13:
        raise Unsolvable("the data do not determine the model: terms are sums of others; leave some out")
    scale = scales if right.ndim == 1 else scales[:, None]
    found: Floats = np.linalg.solve(scaled, right / scale) / scale
    return found


def inverse(matrix: Floats) -> Floats:
    """Return the inverse of a symmetric matrix; see `solve`."""
    return solve(matrix, np.eye(len(matrix)))


def check_point(
    table: AuditedTable,
    question: str,
    design: Design,
    at: Floats,
    weights: Callable[[Floats], tuple[Floats, ...]],
) -> None:
    """Check, where the owner sets a minimum of rows, that the sums at these coefficients are about enough rows.

    Args:
        question: names the kind of model; all points at which it was answered are compared, whatever the outcome:
            sums of one outcome's residuals follow from those of another.
        at: coefficients of the scaled terms.
        weights: returns the weights of all rows in the sums, from the linear predictor.

    Raises:
        NodeFailure: with reason `min_rows`: few rows have most of the weight, alone or in the difference from sums
            that were released before; or the question was answered at `MAX_POINTS` points.
    """
    if table.book is None:
        return
    point = _in_columns(design, at)
    earlier = [other for other in table.book.answered(question) if other != point]
    here = weights(_linear(table, point))
    before = (weights(_linear(table, other)) for other in earlier)
    few = len(earlier) >= MAX_POINTS or few_weigh(here, before, table.min_rows)
    if few:
        raise table.withheld("sums at these coefficients, or their difference from sums at others,")
    table.book.answer(question, point)


def _in_columns(design: Design, at: Floats) -> dict[str, Any]:
    """Return coefficients as those of the columns themselves, and the rest as a constant."""
    base, scaled = (float(at[0]), at[1:]) if design.intercept else (0.0, at)
    terms = scaled / np.asarray(design.scales)
    constant = base - float(terms @ np.asarray(design.means))
    return {"constant": constant, "terms": dict(zip(design.terms, terms.tolist(), strict=True))}


def _linear(table: AuditedTable, point: Mapping[str, Any]) -> Floats:
    """Return the linear predictor of the used rows; a missing value counts as 0."""
    used = table.all_rows if table.used is None else table.used
    linear = np.full(len(used), float(point["constant"]))
    for term, coefficient in point["terms"].items():
        linear += coefficient * np.nan_to_num(_term(table, term)[used])
    return linear


def _term(table: AuditedTable, term: str) -> Floats:
    if term in table.frame:
        return table.values(term)
    name, _, level = term.rpartition("=")
    while name and name not in table.frame:  # a category's name may hold the sign as well
        name, _, more = name.rpartition("=")
        level = f"{more}={level}"
    if not name:
        return np.zeros(len(table.frame))
    found: Floats = (categories(table.node, table.frame, name) == level).astype(np.float64)
    return found
