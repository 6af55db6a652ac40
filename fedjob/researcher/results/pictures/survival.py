"""The picture of survival: curves in steps with their intervals, and beneath how many are at risk.

Of the survival that a Cox regression predicts it is not known how many are at risk: nodes release sums of their risks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjob.common.errors import SpecError
from fedjob.data.category import category_text
from fedjob.protocols.analytics.survival.breslow import PREDICTION, rows_of
from fedjob.researcher.results.pictures.figure import COLOURS, bare, grid, ink, new_figure, short_name
from fedjob.researcher.results.result_summary import SURVIVAL, p_text

MAX_GROUPS = len(COLOURS)
"""Groups that are drawn: of more, colours can't be told apart and intervals hide each other."""

MAX_NAMED = 5
"""Columns that name a row."""

COLUMNS = ("time", "at_risk", "events", "censored", "survival", "std_error", "low", "high")


def draw_survival(tables: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Draw the curves of all groups.

    Args:
        config: of the protocol: `duration` names the axis.

    Raises:
        SpecError: there are no groups, or more than can be told apart.
    """
    frame = tables[SURVIVAL]
    groups = _groups(frame)
    if not groups:
        raise SpecError("nothing to plot: the owners' limits let no group leave")
    if len(groups) > MAX_GROUPS:
        raise SpecError(
            f"a picture has at most {MAX_GROUPS} groups, these are {len(groups)}: ask by fewer columns, or draw those "
            "that you want from result.tables['survival']"
        )
    figure = new_figure(7.2, 4.4 + 0.24 * len(groups))
    axis, beneath = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [4.4, 0.25 + 0.24 * len(groups)]}
    )
    for (name, part), colour in zip(groups, COLOURS, strict=False):
        _curve(axis, part, colour, name)
    axis.set(ylim=(-0.02, 1.04), ylabel="survival", xlim=(-0.03 * float(frame["time"].max()), None))
    grid(axis)
    axis.tick_params(labelbottom=True)
    bare(axis)
    if len(groups) > 1:
        axis.legend(title=_titled(tables), fontsize=9, title_fontsize=9, frameon=False, loc="upper right")
        _make_room(axis, groups)
    axis.set_xlabel(short_name(str(config.get("duration", "time"))))
    axis.set_title(f"{_title(config)}, 95 % intervals; ticks: last observed", fontsize=10)
    _numbers_at_risk(axis, beneath, groups)
    return figure


def draw_predicted(frame: Any, rows: Any, value: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Draw the survival that a Cox regression predicts, from time 0 on.

    Args:
        frame: of `predicted_survival`.
        rows: that it was asked for; None for the means of all terms.
        value: the result of the regression.

    Raises:
        SpecError: there are no rows, or more than can be told apart.
    """
    import pandas as pd

    parts = [part for _, part in frame.groupby("row", sort=False, dropna=False)]
    if not 0 < len(parts) <= MAX_GROUPS:
        raise SpecError(
            f"a picture has 1 to {MAX_GROUPS} rows, these are {len(parts)}: draw those that you want from "
            "result.predict_survival(rows)"
        )
    names, about = (["at the means of all terms"], "") if rows is None else row_names(rows, value)
    figure = new_figure(7.2, 4.4)
    axis = figure.subplots()
    for part, colour, name in zip(parts, COLOURS, names, strict=False):
        start = {"time": 0.0, "survival": 1.0, "low": 1.0, "high": 1.0}
        full = pd.concat([pd.DataFrame([start]), part[list(start)]], ignore_index=True)
        _steps(axis, full, colour, name)
    axis.set(ylim=(-0.02, 1.04), ylabel="survival", xlim=(0, None))
    axis.set_xlabel(short_name(str(config.get("duration", "time"))))
    grid(axis)
    bare(axis)
    if len(parts) > 1 or rows is not None:
        axis.legend(fontsize=9, frameon=False, loc="upper right", title=about or None, title_fontsize=9)
        _make_room(axis, [("", part) for part in parts])
    place = ", at the means of all terms" if rows is None else ""
    axis.set_title(f"{_title(config)} by a Cox regression{place}, 95 % intervals", fontsize=10)
    return figure


def row_names(rows: Any, value: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the names of rows, and what they have in common: their labels if these are texts, else what differs."""
    table = rows_of(rows, value)
    features = list(value[PREDICTION]["features"])
    differ = [name for name in features if table[name].nunique() > 1] or features
    same = [name for name in features if name not in differ]
    about = _in_words(table.iloc[0], same) if same else ""
    if all(isinstance(label, str) for label in table.index):
        return [short_name(label) for label in table.index], about
    return [_in_words(row, differ) for _, row in table.iterrows()], about


def _in_words(row: Any, names: Sequence[str]) -> str:
    shown = ", ".join(
        f"{short_name(name)} {short_name(category_text(row[name]))}" for name in names[:MAX_NAMED]
    )
    return shown + (", …" if len(names) > MAX_NAMED else "")


def _title(config: Mapping[str, Any]) -> str:
    return f"Survival ({short_name(str(config.get('event', 'the event')))} is the event)"


def _groups(frame: Any) -> list[tuple[str, Any]]:
    """Return the rows of each group by its name, in their order."""
    keys = [name for name in frame.columns if name not in COLUMNS]
    if not keys:
        return [("all", frame)] if len(frame) else []
    found = []
    for labels, part in frame.groupby(keys, sort=False, dropna=False):
        named = labels if isinstance(labels, tuple) else (labels,)
        found.append(
            (
                ", ".join(
                    f"{short_name(key)} {short_name(label)}" for key, label in zip(keys, named, strict=True)
                ),
                part,
            )
        )
    return found


def _curve(axis: Any, part: Any, colour: str, name: str) -> None:
    _steps(axis, part, colour, name)
    left = part["censored"].to_numpy() > 0
    time, survival = part["time"].to_numpy(dtype=float), part["survival"].to_numpy(dtype=float)
    axis.plot(time[left], survival[left], linestyle="", marker="|", markersize=6, color=colour)


def _steps(axis: Any, part: Any, colour: str, name: str) -> None:
    """Draw a curve with its interval."""
    time, survival = part["time"].to_numpy(dtype=float), part["survival"].to_numpy(dtype=float)
    axis.step(time, survival, where="post", color=colour, linewidth=2, label=name)
    axis.fill_between(
        time,
        part["low"].to_numpy(dtype=float),
        part["high"].to_numpy(dtype=float),
        step="post",
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _titled(tables: Mapping[str, Any]) -> str | None:
    """Return the outcome of the log-rank test, in words."""
    if "logrank" not in tables:
        return None
    text = str(p_text(float(tables["logrank"]["p_value"].iloc[0])))
    return None if text == "–" else "log-rank p " + (f"< {text[1:]}" if text.startswith("<") else f"= {text}")


def _make_room(axis: Any, groups: Sequence[tuple[str, Any]]) -> None:
    """Put the names where the curves leave most room: below them where they end high."""
    lowest = min(float(part["low"].iloc[-1]) for _, part in groups)
    if lowest > 0.3:
        axis.get_legend().set_loc("lower left")


def _numbers_at_risk(axis: Any, beneath: Any, groups: Sequence[tuple[str, Any]]) -> None:
    """Write how many of each group are at risk at the times that the axis names."""
    right = axis.get_xlim()[1]
    ticks = [tick for tick in axis.get_xticks() if 0 <= tick <= right]
    beneath.set_ylim(len(groups) - 0.4, -0.9)
    for row, (_, part) in enumerate(groups):
        for tick in ticks:
            beneath.text(
                tick, row, f"{at_risk(part, tick):,}", ha="center", va="center", fontsize=9, color=ink()
            )
    beneath.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=9)
    for label, colour in zip(beneath.get_yticklabels(), COLOURS, strict=False):
        label.set(color=colour, fontweight="bold")
    beneath.set_title("at risk", fontsize=9, loc="left", pad=2)
    beneath.tick_params(length=0, labelbottom=False, pad=8)
    bare(beneath, "left", "bottom")


def at_risk(part: Any, time: float) -> int:
    """Return how many rows of a group are at risk at a time: those whose event or last observation comes no earlier."""
    times, numbers = part["time"].to_numpy(dtype=float), part["at_risk"].to_numpy()
    place = int(np.searchsorted(times, time))
    if place < len(times):
        return int(numbers[place])
    last = part.iloc[-1]
    return int(last["at_risk"] - last["events"] - last["censored"])
