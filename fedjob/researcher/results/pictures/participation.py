"""The picture of who took part in which round of a job."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.figure import BLUE, ORANGE, new_figure, saved, short_name

MAX_NODES = 60
MAX_APART = 60
"""Rounds that are drawn one by one."""

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
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    every = sorted({*nodes, *(node for part in rounds.values() for node in (*part.answered, *part.left_out))})
    shown = every[:MAX_NODES]
    numbers = range(min(rounds), max(rounds) + 1)
    grid = [[_state(node, rounds.get(number)) for number in numbers] for node in shown]
    names = [short_name(node) for node in shown]
    beside = 0.075 * max(map(len, names), default=0)
    figure = new_figure(min(12.0, 3.0 + beside + 0.24 * len(numbers)), 1.1 + 0.28 * len(shown))
    axis = figure.subplots()
    apart = len(numbers) <= MAX_APART
    for row, states in enumerate(grid):
        for state, spans in _spans(states, numbers[0], apart=apart).items():
            axis.broken_barh(spans, (row - 0.44, 0.88), facecolors=COLOURS[state], linewidth=0)
    axis.set(xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=(len(shown) - 0.5, -0.5))
    axis.set_yticks(range(len(shown)), names)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("round")
    for side in axis.spines.values():
        side.set_visible(False)
    axis.tick_params(length=0)
    if len(every) > len(shown):
        axis.set_title(f"the first {len(shown)} of {len(every)} nodes", fontsize=9, loc="left")
    found = {state for row in grid for state in row}
    handles = [Patch(color=colour, label=state) for state, colour in COLOURS.items() if state in found]
    axis.legend(handles=handles, fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return saved(figure, path)


def _spans(states: Sequence[str], first: int, *, apart: bool) -> dict[str, list[tuple[float, float]]]:
    """Return state -> begin and width of each stretch of rounds.

    Args:
        apart: every round for itself, with a gap to the next.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    place = 0
    for state, group in groupby(states):
        number = len(list(group))
        stretch = (
            [(first + place + step - 0.46, 0.92) for step in range(number)]
            if apart
            else [(first + place - 0.5, float(number))]
        )
        spans.setdefault(state, []).extend(stretch)
        place += number
    return spans


def _state(node: str, part: RoundPart | None) -> str:
    if part is None:
        return NOT_CHOSEN
    if node in part.left_out:
        return LEFT_OUT
    return ANSWERED if node in part.answered else NOT_CHOSEN
