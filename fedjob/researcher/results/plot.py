"""The plot of a job's history: each metric over the rounds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.files import by_users_umask
from fedjob.researcher.storage.measurements import OVERALL, Measurement

PANELS = {
    "shared model": {"before": -1, "validate": 0},
    "local models, after training": {"after": 0},
    "personal models": {"personal": 0},
    "during local training": {"train": 0},
}
"""Title -> the phases drawn in it, and how their rounds are shifted: what is measured before round 5
is the model of 4 rounds."""


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that a notebook shows by itself, whatever its backend."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return Plot(figsize=(width, height), layout="constrained")


def plot_history(rows: tuple[Measurement, ...], metrics: list[str] | None, path: str | Path | None) -> Any:
    """Draw the history; see `JobResult.plot`."""
    from matplotlib.ticker import MaxNLocator

    names = [n for n in dict.fromkeys(row.metric for row in rows) if metrics is None or n in metrics]
    panels = [
        (metric, title, shifts)
        for title, shifts in PANELS.items()
        for metric in names
        if any(row.metric == metric and row.phase in shifts for row in rows)
    ]
    if not panels:
        known = ", ".join(sorted({row.metric for row in rows})) or "nothing"
        raise SpecError(f"nothing to plot: asked for {metrics}, the history has {known}")
    wide, high = min(len(panels), 3), -(-len(panels) // 3)
    figure = new_figure(4.6 * wide, 3.4 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    nodes = sorted({row.node for row in rows if row.node != OVERALL})
    for axis, (metric, title, shifts) in zip(axes, panels, strict=False):
        for index, node in enumerate([*nodes, OVERALL]):
            points = sorted(
                (row.round + shifts[row.phase], row.value)
                for row in rows
                if row.metric == metric and row.node == node and row.phase in shifts
            )
            if points:
                overall = node == OVERALL
                axis.plot(
                    *zip(*points, strict=True),
                    label="all nodes" if overall else node,
                    linewidth=2.4 if overall else 1,
                    color="black" if overall else f"C{index}",
                    alpha=1 if overall else 0.75,
                    marker="o" if len(points) == 1 else None,
                )
        axis.set_title(f"{metric}: {title}", fontsize=9)
        axis.set_xlabel("rounds of training")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if len(nodes) <= 12:
        axes[0].legend(fontsize=7)
    if path is not None:
        with by_users_umask():
            figure.savefig(path, dpi=130)
    return figure
