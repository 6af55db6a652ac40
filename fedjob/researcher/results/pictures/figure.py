"""The look of all pictures: a figure that notebooks show, its colours and its legend.

The colours can be told apart by people who see few of them (Okabe, Ito 2008, "Color universal design",
https://jfly.uni-koeln.de/color/). Text, axes and backgrounds follow matplotlib's settings, so that `dark_background`
gives a dark picture. With matplotlib's own settings a notebook shows the picture without a background, and what is black in it in a
grey that can be read on white and on black: which theme the reader has, now or later, is not known. A file is black on white.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from fedjob.common.files import by_users_umask

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SKY = "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", SKY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))

NEUTRAL = "#7a7a7a"
"""A grey with a contrast of 4.3 to white and of 4.4 to the black of dark notebooks."""

MAX_NAME = 32
"""Letters of a name of a node, a column or a label that stand in a picture."""

MAX_LEGEND = 24
"""Nodes that a legend names: as many as colours and dashes tell apart."""


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that a notebook shows by itself, whatever its backend; sizes are in inches."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _ipython_display_(self) -> None:
            # before all forms: with pyplot in a notebook IPython would draw any figure itself, on white paper
            forms = {"image/png": base64.b64encode(self._repr_png_()).decode(), "text/plain": _titled(self)}
            import_module("IPython.display").display(forms, raw=True)

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with _on_any_paper(self) as through:
                self.savefig(buffer, format="png", dpi=110, transparent=through)
            return buffer.getvalue()

    return Plot(figsize=(width, height), layout="constrained")


def _titled(figure: Any) -> str:
    """Return what a picture shows, for those who do not see it."""
    titles = [
        figure.get_suptitle(),
        *(axis.get_title(loc) for axis in figure.axes for loc in ("center", "left")),
    ]
    words = " ".join(next(filter(None, titles), "").split())
    return f"Picture: {words}" if words else "Picture"


@contextlib.contextmanager
def _on_any_paper(figure: Any) -> Iterator[bool]:
    """Have what is black in a figure grey, and yield True; where the user chose other colours leave all and yield False."""
    import matplotlib as mpl

    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = mpl.rcParams
    papers = [settings[name] for name in ("figure.facecolor", "axes.facecolor")]
    if any(settings[name] != "black" for name in names) or papers != ["white", "white"]:
        yield False
        return
    figure.draw_without_rendering()  # only now all ticks are there
    changed: list[tuple[Callable[[Any], Any], Any]] = []
    for artist in figure.findobj():
        for kind in ("color", "edgecolor", "markeredgecolor"):
            get: Any = getattr(artist, f"get_{kind}", None)
            set_: Any = getattr(artist, f"set_{kind}", None)
            colour = None if get is None or set_ is None else get()
            if _is_black(colour):
                changed.append((set_, colour))
                set_(NEUTRAL)
    try:
        yield True
    finally:
        for set_, colour in changed:
            set_(colour)


def _is_black(colour: Any) -> bool:
    """Return whether a colour of an artist, or the only one of a collection, is opaque black."""
    from matplotlib.colors import to_rgba_array

    try:
        found = to_rgba_array(colour)
    except (TypeError, ValueError):
        return False
    return len(found) == 1 and found[0].tolist() == [0.0, 0.0, 0.0, 1.0]


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


def bare(axis: Any, *sides: str) -> None:
    """Take the lines at these sides of a panel away, the top and the right one in any case."""
    for side in ("top", "right", *sides):
        axis.spines[side].set_visible(False)


def grid(axis: Any, which: str = "both") -> None:
    """Draw lines at the ticks that are pale on light and on dark, behind everything else."""
    axis.grid(axis=which, color="0.5", alpha=0.22, linewidth=0.8)
    axis.set_axisbelow(True)


def short_name(name: Any) -> str:
    """Return a name as a picture has room for it."""
    text = str(name)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"


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
