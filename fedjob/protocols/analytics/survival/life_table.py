"""Survival, its intervals, medians and the log-rank test, from numbers of events and last observations at each time.

Greenwood 1926, "The natural duration of cancer", Reports on Public Health and Medical Subjects 33; intervals of
log(-log S) as in Kalbfleisch, Prentice 2002, "The statistical analysis of failure time data",
https://doi.org/10.1002/9781118032985; Mantel 1966, "Evaluation of survival data and two new rank order statistics
arising in its consideration", Cancer Chemotherapy Reports 50.

    Var S = S^2 sum d / (n (n - d)),    log-rank: (O - E)' V^-1 (O - E) is chi-squared with groups - 1 degrees of freedom
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.table import SEPARATOR, category_value, in_order
from fedjob.protocols.analytics.tables import labelled_frame

if TYPE_CHECKING:
    import pandas as pd

Counts = Mapping[str, Sequence[int]]
"""`events` and `censored`: their numbers at each time."""

_Z = 1.959963984540054


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCurve:
    """A survival curve at each time of a grid.

    Args:
        at_risk: rows whose event or last observation comes no earlier.
        survival: 0 to 1.
        std_error: Greenwood's.
        low, high: the 95 % interval.
    """

    at_risk: Floats
    events: Floats
    censored: Floats
    survival: Floats
    std_error: Floats
    low: Floats
    high: Floats


def curve_of(counts: Counts) -> SurvivalCurve:
    """Return the curve that follows from counts."""
    events: Floats = np.asarray(counts["events"], dtype=np.float64)
    censored: Floats = np.asarray(counts["censored"], dtype=np.float64)
    gone = events + censored
    at_risk: Floats = np.asarray(gone.sum() - np.cumsum(gone) + gone, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = np.where(at_risk > 0, 1 - events / at_risk, 1.0)
        survival: Floats = np.cumprod(shares, dtype=np.float64)
        parts = np.where(events > 0, events / (at_risk * (at_risk - events)), 0.0)
        spread = np.sqrt(np.cumsum(parts))
        inside = (survival > 0) & (survival < 1)
        reach = np.exp(_Z * spread / np.abs(np.log(survival)))
        low = np.where(inside, survival**reach, survival)
        high = np.where(inside, survival ** (1 / reach), survival)
        std_error = np.where(survival > 0, survival * spread, 0.0)
    return SurvivalCurve(at_risk, events, censored, survival, std_error, low, high)


def survival_table(by: Sequence[str], times: Sequence[float], groups: Mapping[str, Counts]) -> pd.DataFrame:
    """Return a row for each group and each time at which something happens, the first time in any case.

    Returns:
        Columns of `by`; `time`, `at_risk`, `events`, `censored`, `survival`, `std_error`, `low`, `high`.
    """
    rows = []
    for group in ordered(groups):
        curve = curve_of(groups[group])
        for place, time in enumerate(times):
            if place and not curve.events[place] and not curve.censored[place]:
                continue
            rows.append(
                labels_of(by, group)
                | {
                    "time": time,
                    "at_risk": int(curve.at_risk[place]),
                    "events": int(curve.events[place]),
                    "censored": int(curve.censored[place]),
                }
                | {
                    name: float(getattr(curve, name)[place])
                    for name in ("survival", "std_error", "low", "high")
                }
            )
    columns = ["time", "at_risk", "events", "censored", "survival", "std_error", "low", "high"]
    return labelled_frame(rows, [*by, *columns])


def median_table(by: Sequence[str], times: Sequence[float], groups: Mapping[str, Counts]) -> pd.DataFrame:
    """Return a row for each group: its rows, events, and its median survival with the 95 % interval.

    A median, or an end of its interval, is infinite where the curve does not come down to one half.
    """
    rows = []
    for group in ordered(groups):
        curve = curve_of(groups[group])
        rows.append(
            labels_of(by, group)
            | {"rows": int(curve.at_risk[0]), "events": int(curve.events.sum())}
            | {
                "median": _first_half(times, curve.survival),
                "low": _first_half(times, curve.low),
                "high": _first_half(times, curve.high),
            }
        )
    return labelled_frame(rows, [*by, "rows", "events", "median", "low", "high"])


def _first_half(times: Sequence[float], survival: Floats) -> float:
    below = np.flatnonzero(survival <= 0.5)
    return float(times[below[0]]) if len(below) else math.inf


def logrank_table(groups: Mapping[str, Counts]) -> pd.DataFrame:
    """Return the log-rank test that all groups have the same survival: one row.

    Returns:
        Columns `statistic`, `degrees_of_freedom`, `p_value`; NaN where there are no events to compare.
    """
    import pandas as pd
    from scipy.special import chdtrc

    curves = [curve_of(groups[group]) for group in ordered(groups)]
    at_risk = np.array([curve.at_risk for curve in curves])
    events = np.array([curve.events for curve in curves])
    all_at_risk, all_events = at_risk.sum(axis=0), events.sum(axis=0)
    used = all_events > 0
    at_risk, events, number, happened = (
        at_risk[:, used],
        events[:, used],
        all_at_risk[used],
        all_events[used],
    )
    share = at_risk / number
    surplus = (events - share * happened).sum(axis=1)
    factor = happened * np.divide(number - happened, number - 1, out=np.zeros(len(number)), where=number > 1)
    spread = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    degrees = len(curves) - 1
    statistic = p_value = math.nan
    if used.any() and np.linalg.matrix_rank(spread) == degrees:
        statistic = float(surplus @ np.linalg.pinv(spread) @ surplus)
        p_value = float(chdtrc(degrees, statistic))
    return pd.DataFrame([{"statistic": statistic, "degrees_of_freedom": degrees, "p_value": p_value}])


def labels_of(by: Sequence[str], group: str) -> dict[str, Any]:
    """Return column -> value of a group."""
    return dict(zip(by, map(category_value, group.split(SEPARATOR)), strict=True)) if by else {}


def ordered(groups: Mapping[str, Any]) -> list[str]:
    """Return the names of groups in order."""
    return sorted(groups, key=lambda name: [in_order(part) for part in name.split(SEPARATOR)])
