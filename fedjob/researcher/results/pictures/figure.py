"""The look of all pictures: a figure that notebooks show, its colours and its legend.

The colours can be told apart by people who see few of them (Okabe, Ito 2008, "Color universal design",
https://jfly.uni-koeln.de/color/). Text, axes and backgrounds follow matplotlib's settings, so that `dark_background`
gives a dark picture.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fedjob.common.files import by_users_umask

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SKY = "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", SKY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))

MAX_LEGEND = 24
"""Nodes that a legend names: as many as colours and dashes tell apart."""


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that a notebook shows by itself, whatever its backend; sizes are in inches."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return Plot(figsize=(width, height), layout="constrained")


def line_of(place: int) -> dict[str, Any]:
    """Return colour and dashes of a line: 24 that differ."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


def ink() -> str:
    """Return the colour of what stands out: that of text, dark on light and light on dark."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def paper() -> str:
    """Return the colour of the background."""
    import matplotlib as mpl

    return str(mpl.rcParams["axes.facecolor"])


def bare(axis: Any, *sides: str) -> None:
    """Take the lines at these sides of a panel away, the top and the right one in any case."""
    for side in ("top", "right", *sides):
        axis.spines[side].set_visible(False)


def grid(axis: Any, which: str = "both") -> None:
    """Draw lines at the ticks that are pale on light and on dark, behind everything else."""
    axis.grid(axis=which, color="0.5", alpha=0.22, linewidth=0.8)
    axis.set_axisbelow(True)


def legend_beside(figure: Any, axis: Any, *, title: str = "") -> None:
    """Put the names of the lines of a panel to the right of all panels, where they hide nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside right upper", fontsize=8, frameon=False, title=title or None
        )


def saved(figure: Any, path: str | Path | None) -> Any:
    """Return a figure, saved as PNG where a path is given."""
    if path is not None:
        with by_users_umask():
            figure.savefig(path, dpi=130)
    return figure
