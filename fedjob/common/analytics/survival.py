"""Cox's partial likelihood with Efron's ties, from sums at each time of an event.

Cox 1972, "Regression models and life-tables", https://doi.org/10.1111/j.2517-6161.1972.tb00899.x;
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
from typing import Any

import numpy as np

from fedjob.common.analytics.releases import Floats

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
