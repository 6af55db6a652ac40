"""The plots of analyses: a forest plot of coefficients or ratios with their intervals, and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.figure import BLUE, new_figure, paper
from fedjob.researcher.results.result_summary import COEFFICIENTS, REGRESSIONS

MAX_TERMS = 60
MAX_PANELS = 12


def plot_tables(tables: Mapping[str, Any], protocol: str) -> Any:
    """Draw what can be drawn of an analysis; see `JobResult.plot`.

    Raises:
        SpecError: nothing can.
    """
    if protocol in REGRESSIONS and COEFFICIENTS in tables and "low" in tables[COEFFICIENTS]:
        figure = _forest(tables, protocol)
    elif "histogram" in tables and len(tables["histogram"]):
        figure = _histograms(tables["histogram"])
    else:
        raise SpecError(
            "nothing to plot: there are pictures of training, of regressions with intervals, and of histograms; "
            f"this result has {', '.join(tables) or 'no tables'}"
        )
    return figure


def _forest(tables: Mapping[str, Any], protocol: str) -> Any:
    """Draw each term with its interval, on a logarithmic axis for ratios; the line is that of no effect."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    words = REGRESSIONS[protocol]
    frame = tables[words.table] if words.ratio else tables[COEFFICIENTS]
    frame = frame[frame["term"] != "intercept"].head(MAX_TERMS)
    middle = frame[words.ratio.replace(" ", "_")] if words.ratio else frame["estimate"]
    places = range(len(frame) - 1, -1, -1)
    figure = new_figure(6.4, 1.2 + 0.34 * len(frame))
    axis = figure.subplots()
    axis.axvline(1.0 if words.ratio else 0.0, color="0.5", linewidth=1, linestyle="--")
    for place, low, value, high in zip(places, frame["low"], middle, frame["high"], strict=True):
        axis.plot([low, high], [place, place], color=BLUE, linewidth=1.6, solid_capstyle="butt")
        axis.plot([value], [place], marker="s", markersize=6, color=BLUE)
    axis.set_yticks(list(places), [str(term) for term in frame["term"]])
    axis.set_ylim(-0.6, len(frame) - 0.4)
    if words.ratio:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(f"{words.ratio or 'coefficient'} with 95 % interval")
    axis.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure


def _histograms(frame: Any) -> Any:
    """Draw the bins of each column, and of each group where there are some; what lies outside is named in the title."""
    import numpy as np

    keys = [name for name in frame.columns if name not in ("low", "high", "count")]
    panels = list(frame.groupby(keys, sort=False, dropna=False))[:MAX_PANELS]
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    figure = new_figure(4.2 * wide, 3.0 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for axis, (labels, part) in zip(axes, panels, strict=False):
        named = labels if isinstance(labels, tuple) else (labels,)
        inside = part[np.isfinite(part["low"]) & np.isfinite(part["high"])]
        outside = int(part["count"].sum() - inside["count"].sum())
        widths = inside["high"] - inside["low"]
        axis.bar(inside["low"], inside["count"], width=widths, align="edge", color=BLUE, edgecolor=paper())
        groups = ", ".join(
            f"{key} {label}" for key, label in zip(keys, named, strict=True) if key != "column"
        )
        title = str(dict(zip(keys, named, strict=True)).get("column", ""))
        axis.set_title(
            ", ".join(filter(None, (title, groups, f"{outside} outside" if outside else ""))), fontsize=10
        )
        axis.set_ylabel("rows")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure
