"""Newton's method where each step is an ask: pure state in, state out.

    beta <- beta + H^-1 g        g, H: gradient and negative second derivatives of the log-likelihood

A step that lowers the log-likelihood is halved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjob.common.errors import Unsolvable
from fedjob.privacy.releases import Floats

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
