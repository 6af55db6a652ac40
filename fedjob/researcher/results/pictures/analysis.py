"""The pictures of analyses: a forest of coefficients or ratios with their intervals, and histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.notebooks.plain_tables import number_text
from fedjob.protocols.analytics.survival.breslow import BASELINE, predicted_survival
from fedjob.researcher.results.pictures.figure import BLUE, bare, grid, new_figure, short_name
from fedjob.researcher.results.pictures.survival import draw_predicted, draw_survival
from fedjob.researcher.results.result_summary import COEFFICIENTS, REGRESSIONS, SURVIVAL, p_text

MAX_TERMS = 60
MAX_PANELS = 12
MAX_TICKS = 8
_RATIO_STEPS = (
    tuple(round(1 + 0.05 * place, 2) for place in range(180)),
    tuple(round(1 + 0.1 * place, 1) for place in range(90)),
    (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
    (1.0,),
)
"""Ratios of one power of ten that an axis may name, the closest first."""


def pictures_of(
    tables: Mapping[str, Any], value: Any, protocol: str, config: Mapping[str, Any], rows: Any = None
) -> dict[str, Callable[[], Any]]:
    """Return the pictures that there are of an analysis, name -> what draws it; the first is the one to show.

    Args:
        rows: of which a Cox regression predicts the survival; None for the means of all terms.

    Raises:
        SpecError: there are none.
    """
    found: dict[str, Callable[[], Any]] = {}
    if protocol in REGRESSIONS and COEFFICIENTS in tables and "low" in tables[COEFFICIENTS]:
        found[COEFFICIENTS] = lambda: _forest(tables, protocol)
    if BASELINE in tables:
        found[SURVIVAL] = lambda: draw_predicted(predicted_survival(value, rows), rows, value, config)
    elif SURVIVAL in tables:
        found[SURVIVAL] = lambda: draw_survival(tables, config)
    if "histogram" in tables and len(tables["histogram"]):
        found["histogram"] = lambda: _histograms(tables["histogram"])
    if not found:
        raise SpecError(
            "nothing to plot: there are pictures of training, of regressions with intervals, of survival and of histograms; "
            f"this result has {', '.join(tables) or 'no tables'}. "
            'job.plot("participation") draws who took part'
        )
    return found


def _forest(tables: Mapping[str, Any], protocol: str) -> Any:
    """Draw each term with its interval, on a logarithmic axis for ratios; the line is that of no effect."""
    words = REGRESSIONS[protocol]
    frame = tables[words.table] if words.ratio else tables[COEFFICIENTS]
    frame = frame[frame["term"] != "intercept"].head(MAX_TERMS)
    middle = frame[words.ratio.replace(" ", "_")] if words.ratio else frame["estimate"]
    places = range(len(frame) - 1, -1, -1)
    names = [short_name(term) for term in frame["term"]]
    beside_names = 0.085 * max(map(len, names), default=0)
    figure = new_figure(7.6 + beside_names, 1.3 + 0.34 * len(frame))
    axis, beside = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [4.4, 2.9]})
    axis.axvline(1.0 if words.ratio else 0.0, color="0.5", linewidth=1, linestyle="--")
    shown = zip(places, frame["low"], middle, frame["high"], frame["p_value"], strict=True)
    for place, low, value, high, p_value in shown:
        axis.plot([low, high], [place, place], color=BLUE, linewidth=1.8, solid_capstyle="butt")
        axis.plot([value], [place], marker="s", markersize=6, color=BLUE)
        interval = f"{number_text(value)} ({number_text(low)} to {number_text(high)})"
        beside.text(0.0, place, interval, va="center", fontsize=9)
        beside.text(1.0, place, str(p_text(p_value)), va="center", ha="right", fontsize=9)
    beside.text(0.0, len(frame) - 0.35, "with 95 % interval", va="bottom", fontsize=9, fontweight="bold")
    beside.text(1.0, len(frame) - 0.35, "p", va="bottom", ha="right", fontsize=9, fontweight="bold")
    beside.set_axis_off()
    axis.set_yticks(list(places), names)
    axis.set_ylim(-0.6, len(frame) - 0.4)
    if words.ratio:
        axis.set_xscale("log")
        axis.minorticks_off()
        ticks = ratio_ticks(*axis.get_xlim())
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlabel(f"{words.ratio or 'coefficient'} with 95 % interval")
    axis.set_title(words.title, fontsize=11, loc="left")
    grid(axis, "x")
    bare(axis, "left")
    axis.tick_params(axis="y", length=0)
    return figure


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return ratios to name on a logarithmic axis from `low` to `high`: 1 among them if it lies there, 8 at most."""
    if not (0 < low < high < math.inf):
        return [1.0]
    for steps in _RATIO_STEPS:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps]
        inside = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
        if len(inside) <= MAX_TICKS:
            return inside
    every = -(-len(inside) // MAX_TICKS)
    return [tick for tick in inside if round(math.log10(tick)) % every == 0]


def _histograms(frame: Any) -> Any:
    """Draw the bins of each column, and of each group where there are some; what lies outside is named in the title."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    keys = ["column", *(name for name in frame.columns if name not in ("low", "high", "count", "column"))]
    found = list(frame.groupby(keys, sort=False, dropna=False))
    names = list(dict.fromkeys(str(labels[0]) for labels, _ in found))
    panels = sorted(found, key=lambda panel: names.index(str(panel[0][0])))[:MAX_PANELS]
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    figure = new_figure(4.0 * wide, 3.0 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for axis, (labels, part) in zip(axes, panels, strict=False):
        inside = part[np.isfinite(part["low"]) & np.isfinite(part["high"])]
        outside = int(part["count"].sum() - inside["count"].sum())
        widths = inside["high"] - inside["low"]
        left = inside["low"] + 0.02 * widths
        axis.bar(left, inside["count"], width=0.96 * widths, align="edge", color=BLUE, linewidth=0)
        if len(inside):
            axis.set_xlim(inside["low"].min(), inside["high"].max())
        groups = ", ".join(
            f"{short_name(key)} {short_name(label)}" for key, label in zip(keys[1:], labels[1:], strict=True)
        )
        axis.set_title(
            ", ".join(
                filter(
                    None, (groups, f"{outside} row{'' if outside == 1 else 's'} outside" if outside else "")
                )
            ),
            fontsize=10,
        )
        axis.set(xlabel=short_name(labels[0]), ylabel="rows")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        grid(axis, "y")
        bare(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure
