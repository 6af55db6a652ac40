"""The baseline hazard of a Cox regression, and the survival that it predicts for given rows.

Breslow 1974, "Covariance analysis of censored survival data", https://doi.org/10.2307/2529620; the variance as in
Therneau, Grambsch 2000, "Modeling Survival Data: Extending the Cox Model", section 10.2,
https://doi.org/10.1007/978-1-4757-3294-8.

At the coefficients b, with r = exp((x - m) b), m the means of all rows, and at each time u of an event d_u events and the
sums s_u of r and v_u of r (x - m) over the rows at risk:

    h_u          = d_u / s_u
    H(t | x)     = exp((x - m) b) sum_{u <= t} h_u,    S(t | x) = exp(-H(t | x))
    Var H(t | x) = exp(2 (x - m) b) (sum_u d_u / s_u^2 + q' cov(b) q),    q = sum_u h_u (v_u / s_u - (x - m))

The intervals are those of log(-log S). All follows from the sums that the regression itself asked for: nothing more leaves
a node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjob.common.checks import shown
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.table import categories, numbers

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline"
"""The key of a result under which `baseline_table` stands."""

PREDICTION = "prediction"
"""The key of what `predicted_survival` needs beside it."""

_Z = 1.959963984540054
_MAX_TIMES = 100_000
_MAX_CURVES = 10_000


def hazard_sums(total: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums at each time of an event from which all else follows, of centred and scaled terms.

    Args:
        total: `events` and `risk` of all nodes, as `sums_at` has them, at the coefficients of the result.

    Returns:
        `hazard`, of shape (times,): d / s; `squares`, of shape (times,): d / s^2; `weighted`, of shape (times, terms):
        d v / s^2.
    """
    hazard, squares, weighted = [], [], []
    for number, (zero, one, *_) in zip(total["events"], total["risk"], strict=True):
        hazard.append(number / zero)
        squares.append(number / zero / zero)
        weighted.append((number / zero / zero * np.asarray(one)).tolist())
    return {"hazard": hazard, "squares": squares, "weighted": weighted}


def baseline_of(
    times: Sequence[float],
    events: Sequence[int],
    sums: Mapping[str, Any],
    design: Design,
    found: Floats,
    covariance: Floats,
) -> dict[str, Any]:
    """Return the entries of a result that are about the baseline.

    Args:
        sums: of `hazard_sums`.
        found, covariance: the coefficients, for the terms in their own units.

    Returns:
        `baseline`, the hazard and survival at the means of all terms: a DataFrame of time, events, hazard,
        cumulative_hazard, survival, low, high; and `prediction`, which holds the rest that `predicted_survival` needs.
    """
    import pandas as pd

    prediction = {
        "features": list(design.features),
        "levels": {name: list(levels) for name, levels in design.levels.items()},
        "means": list(design.means),
        "estimate": found.tolist(),
        "covariance": covariance.tolist(),
        "squares": list(sums["squares"]),
        "weighted": (np.asarray(sums["weighted"]) * np.asarray(design.scales)).tolist(),
    }
    frame = pd.DataFrame({"time": list(times), "events": list(events), "hazard": list(sums["hazard"])})
    frame["cumulative_hazard"] = frame["hazard"].cumsum()
    curve = _curves(frame, prediction, np.zeros((1, len(found))))[0]
    return {BASELINE: frame.assign(**curve), PREDICTION: prediction}


def need_baseline(value: Any, protocol: str) -> None:
    """Check that a result predicts survival, if it is that of a Cox regression.

    Raises:
        SpecError: it has a baseline for each node.
    """
    if protocol == "cox_regression" and BASELINE not in value:
        raise SpecError(
            "this regression has a baseline hazard for each node, which no node releases, so it predicts no survival: ask with "
            'CoxRegression(..., baseline="shared"), whose text says what that reveals, or ask KaplanMeier for curves of groups'
        )


def predicted_survival(
    value: Mapping[str, Any], rows: Any = None, times: Sequence[float] | None = None
) -> pd.DataFrame:
    """Return the survival that a Cox regression with a shared baseline predicts.

    Args:
        value: its result.
        rows: a DataFrame, a map column -> value or values, or a list of such maps, with all features in their own units;
            None for one row at the means of all terms.
        times: 0 or more; None for those of the events. From one time of an event to the next the survival is the same.

    Returns:
        Columns `row`, the label of the row in `rows`, or `means`; `time`, `cumulative_hazard`, `survival`, and the
        95 % interval `low`, `high` of the survival.

    Raises:
        SpecError: the result has no baseline; a feature is missing, no number, or of a category that the model does not
            know; a time is negative.
    """
    import pandas as pd

    need_baseline(value, "cox_regression")
    frame, prediction = value[BASELINE], value[PREDICTION]
    wanted = frame["time"].to_numpy(dtype=float) if times is None else _checked_times(times)
    if rows is None:
        labels: list[Any] = ["means"]
        away = np.zeros((1, len(prediction["means"])))
    else:
        table = rows_of(rows, value)
        labels, away = list(table.index), _terms(table, prediction) - np.asarray(prediction["means"])
    if len(labels) * len(wanted) > _MAX_CURVES * 100:
        raise SpecError(
            f"{len(labels)} rows at {len(wanted)} times are too many numbers at once: name fewer times"
        )
    places = np.searchsorted(frame["time"].to_numpy(dtype=float), wanted, side="right") - 1
    parts = []
    for label, curve in zip(labels, _curves(frame, prediction, away), strict=True):
        at = {
            name: np.where(places >= 0, column[places], 0.0 if name == "cumulative_hazard" else 1.0)
            for name, column in curve.items()
        }
        parts.append(pd.DataFrame({"row": [label] * len(wanted), "time": wanted, **at}))
    columns = ["row", "time", "cumulative_hazard", "survival", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _curves(frame: Any, prediction: Mapping[str, Any], away: Floats) -> list[dict[str, Floats]]:
    """Return the curve of each row at the times of the events.

    Args:
        away: of shape (rows, terms): their terms less the means.
    """
    hazard = frame["hazard"].to_numpy(dtype=float)
    base = np.cumsum(hazard)
    spread = np.cumsum(np.asarray(prediction["squares"]))
    drift = np.cumsum(np.asarray(prediction["weighted"]), axis=0)
    covariance = np.asarray(prediction["covariance"])
    found = []
    for each in away:
        q = drift - base[:, None] * each
        relative = np.sqrt(spread + np.einsum("ti,ij,tj->t", q, covariance, q)) / base
        with np.errstate(over="ignore"):
            cumulative = base * np.exp(each @ np.asarray(prediction["estimate"]))
            reach = np.exp(_Z * relative)
            found.append(
                {
                    "cumulative_hazard": cumulative,
                    "survival": np.exp(-cumulative),
                    "low": np.exp(-cumulative * reach),
                    "high": np.exp(-cumulative / reach),
                }
            )
    return found


def _checked_times(times: Sequence[float]) -> Floats:
    try:
        wanted = np.asarray(times, dtype=float).reshape(-1)
    except (TypeError, ValueError):
        raise SpecError(f"times are numbers of 0 or more, not {shown(times)}") from None
    if len(wanted) > _MAX_TIMES or not np.isfinite(wanted).all() or (wanted < 0).any():
        raise SpecError(f"times are finite numbers of 0 or more, {_MAX_TIMES} at most; found {shown(times)}")
    return wanted


def rows_of(rows: Any, value: Mapping[str, Any]) -> pd.DataFrame:
    """Return rows as a table with all features; see `predicted_survival`.

    Raises:
        SpecError: they are of no such form, too many, or lack a feature.
    """
    import pandas as pd

    features = value[PREDICTION]["features"]
    expected = "rows are a DataFrame, a map column -> value or values, or a list of maps"
    columns = (list, tuple, np.ndarray, pd.Series)
    if isinstance(rows, Mapping) and not any(isinstance(item, columns) for item in rows.values()):
        rows = [rows]
    if not isinstance(rows, (pd.DataFrame, Mapping, list, tuple)):
        raise SpecError(f"{expected}, not {shown(rows)}")
    try:
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    except (TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"{expected}: {error}") from None
    if len(table) > _MAX_CURVES:
        raise SpecError(f"rows are {len(table)}, expected {_MAX_CURVES} at most")
    if lacking := [name for name in features if name not in table]:
        raise SpecError(
            f"rows lack {', '.join(map(shown, lacking))}: the model has the features {', '.join(features)}"
        )
    return table


def _terms(table: pd.DataFrame, prediction: Mapping[str, Any]) -> Floats:
    """Return the terms of all rows, in their own units.

    Raises:
        SpecError: a value is missing, no number, or a category that the model does not know.
    """
    design = Design(tuple(prediction["features"]), prediction["levels"])
    parts = []
    for name in design.features:
        try:
            if name in design.levels:
                texts = categories("", table, name)
                known = design.levels[name]
                odd = [text for text in texts if text not in known]
                parts.append(np.column_stack([texts == level for level in known])[:, 1:].astype(float))
            else:
                values = numbers("", table, name)
                odd = [value for value in values if math.isnan(value)]
                parts.append(values[:, None])
        except NodeFailure as error:
            raise SpecError(f"rows: {error.detail.replace(' at this node', '')}") from None
        if odd and name in design.levels:
            raise SpecError(
                f"rows: {name} is {shown(odd[0])}, the model knows {', '.join(design.levels[name])}"
            )
        if odd:
            raise SpecError(
                f"rows: {name} is missing in {len(odd)} of {len(table)} rows, expected a number in each"
            )
    return np.hstack([np.empty((len(table), 0)), *parts])
