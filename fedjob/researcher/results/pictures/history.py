"""The picture of a job's history: each metric over the rounds, of each node and of all together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.figure import (
    MAX_LEGEND,
    bare,
    grid,
    ink,
    legend_beside,
    line_of,
    new_figure,
    short_name,
)
from fedjob.researcher.storage.measurements import OVERALL, Measurement

PANELS = {
    "shared model": {"before": -1, "validate": 0},
    "local models, after training": {"after": 0},
    "personal models": {"personal": 0},
    "during local training": {"train": 0},
}
"""Title -> the phases drawn in it, and how their rounds are shifted: what is measured before round 5
is the model of 4 rounds."""


def plot_history(rows: Sequence[Measurement], metrics: Sequence[str] | None) -> Any:
    """Draw the history; see `JobResult.plot`."""
    from matplotlib.ticker import MaxNLocator

    measured = list(dict.fromkeys(row.metric for row in rows))
    if metrics is None and "accuracy" in measured:  # which the value of a confusion matrix is
        measured = [name for name in measured if name != "confusion_matrix"]
    names = [name for name in measured if metrics is None or name in metrics]
    panels = [
        (metric, title, shifts)
        for title, shifts in PANELS.items()
        for metric in names
        if any(row.metric == metric and row.phase in shifts for row in rows)
    ]
    if not panels:
        known = ", ".join(sorted({row.metric for row in rows})) or "nothing"
        raise SpecError(
            f"nothing to plot: asked for {', '.join(metrics or ['all metrics'])}, the history has {known}; further "
            "pictures are roc, calibration, confusion, and of the job participation"
        )
    nodes = sorted({row.node for row in rows if row.node != OVERALL})
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    beside = 0.9 + 0.07 * max((len(short_name(node)) for node in nodes[:MAX_LEGEND]), default=0)
    figure = new_figure(4.2 * wide + beside, max(3.3 * high, 0.9 + 0.18 * min(len(nodes), MAX_LEGEND)))
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for axis, (metric, title, shifts) in zip(axes, panels, strict=False):
        for place, node in enumerate([*nodes, OVERALL]):
            points = sorted(
                (row.round + shifts[row.phase], row.value)
                for row in rows
                if row.metric == metric and row.node == node and row.phase in shifts
            )
            if points:
                line = _line(place, len(nodes), overall=node == OVERALL)
                axis.plot(*zip(*points, strict=True), marker="o" if len(points) == 1 else None, **line)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(metric)
        axis.set_xlabel("rounds of training")
        grid(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        drawn = {
            row.round + shifts[row.phase] for row in rows if row.metric == metric and row.phase in shifts
        }
        if len(drawn) == 1:  # a single round would be in the middle of fractions of rounds
            axis.set_xlim(min(drawn) - 1, min(drawn) + 1)
        bare(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _name(figure, axes[0], nodes, any(row.node == OVERALL for row in rows))
    return figure


def _line(place: int, num_nodes: int, *, overall: bool) -> dict[str, Any]:
    """Return how the line of a node looks: of more nodes than can be told apart all are grey."""
    if overall:
        return {"color": ink(), "linewidth": 2.4, "zorder": 3}
    if num_nodes > MAX_LEGEND:
        return {"color": "0.6", "linewidth": 0.7}
    return {"linewidth": 1.1, "alpha": 0.9, **line_of(place)}


def _name(figure: Any, axis: Any, nodes: Sequence[str], overall: bool) -> None:
    """Name the lines beside the panels."""
    if overall:
        axis.plot([], [], label="all nodes", **_line(0, 0, overall=True))
    if len(nodes) > MAX_LEGEND:
        axis.plot([], [], label=f"{len(nodes)} nodes", **_line(0, len(nodes), overall=False))
    else:
        for place, node in enumerate(nodes):
            axis.plot([], [], label=short_name(node), **_line(place, len(nodes), overall=False))
    legend_beside(figure, axis)
