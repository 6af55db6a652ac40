"""The picture of who took part in which round of a job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.figure import BLUE, ORANGE, new_figure, paper, saved

MAX_NODES = 60
ANSWERED, LEFT_OUT, NOT_CHOSEN = "answered", "left out", "not chosen"
COLOURS = {ANSWERED: BLUE, LEFT_OUT: ORANGE, NOT_CHOSEN: "#c9ced6"}


class RoundPart(NamedTuple):
    """The nodes of one round: those that answered, and those that were left out."""

    answered: Collection[str]
    left_out: Collection[str]


def plot_participation(
    rounds: Mapping[int, RoundPart], nodes: Collection[str], path: str | Path | None
) -> Any:
    """Draw a row for each node and a column for each round; see `Job.plot`.

    Raises:
        SpecError: no round was completed.
    """
    if not rounds:
        raise SpecError("nothing to plot: no round has been completed")
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    shown = sorted({*nodes, *(node for part in rounds.values() for node in (*part.answered, *part.left_out))})
    shown = shown[:MAX_NODES]
    numbers = range(min(rounds), max(rounds) + 1)
    states = list(COLOURS)
    grid = [[states.index(_state(node, rounds.get(number))) for number in numbers] for node in shown]
    figure = new_figure(min(12.0, 3.2 + 0.24 * len(numbers)), 1.1 + 0.28 * len(shown))
    axis = figure.subplots()
    extent = (numbers[0] - 0.5, numbers[-1] + 0.5, len(shown) - 0.5, -0.5)
    axis.imshow(
        grid,
        cmap=ListedColormap(list(COLOURS.values())),
        vmin=0,
        vmax=len(states) - 1,
        aspect="auto",
        extent=extent,
        interpolation="none",
    )
    axis.set_yticks(range(len(shown)), shown)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("round")
    for place in range(1, len(shown)):
        axis.axhline(place - 0.5, color=paper(), linewidth=2)
    if len(numbers) <= 60:
        for number in numbers[1:]:
            axis.axvline(number - 0.5, color=paper(), linewidth=1)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.tick_params(length=0)
    found = {states[value] for row in grid for value in row}
    handles = [Patch(color=COLOURS[state], label=state) for state in states if state in found]
    axis.legend(handles=handles, fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return saved(figure, path)


def _state(node: str, part: RoundPart | None) -> str:
    if part is None:
        return NOT_CHOSEN
    if node in part.left_out:
        return LEFT_OUT
    return ANSWERED if node in part.answered else NOT_CHOSEN
