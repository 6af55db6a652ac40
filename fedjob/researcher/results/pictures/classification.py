"""The pictures of classifiers: ROC curves, reliability diagrams and confusion matrices, of each node and of all together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjob.common.errors import SpecError
from fedjob.metrics.classification import label_key
from fedjob.metrics.confusion import cells_of
from fedjob.metrics.score_curves import (
    BINS,
    LOG_ODDS,
    Reliability,
    reliability_of,
    roc_of,
    scale_of,
)
from fedjob.metrics.states import error, value
from fedjob.researcher.results.pictures.figure import (
    MAX_LEGEND,
    MAX_NAME,
    NEUTRAL,
    SKY,
    bare,
    grid,
    ink,
    legend_beside,
    line_of,
    new_figure,
    short_name,
)
from fedjob.researcher.results.pictures.measured_states import MeasuredStates

MAX_CLASSES = 9
"""Classes that have a panel."""

MAX_MATRIX = 40
"""Labels of which a matrix is drawn."""

VISIBLE = 0.01
"""Bounds nearer than this, as rates, are not to be seen."""

_WIDE = 1.959964


def draw_roc(measured: MeasuredStates) -> Any:
    """Draw the ROC curve of each node, thin, and of all together, thick; a panel for each class where there are several.

    Raises:
        SpecError: no node has examples of both classes.
    """
    scale, classes = scale_of(measured.overall), _classes(measured)
    figure, axes = _panels(classes, measured, 4.2, 4.2)
    drawn = 0
    for axis, place in zip(axes, classes, strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        for number, (node, state) in enumerate(measured.nodes.items()):
            curve = roc_of(state["sketches"][place], scale)
            if curve is not None:
                label = f"{short_name(node)}: {_area(state)}"
                line = line_of(number)
                axis.plot(
                    curve.false_positives, curve.true_positives, linewidth=1, alpha=0.85, label=label, **line
                )
        curve = roc_of(measured.overall["sketches"][place], scale)
        if curve is not None:
            drawn += 1
            rates = np.linspace(0, 1, 400)
            low, high = _lowest(curve.low, rates), _highest(curve.high, rates)
            if (high - low).max() > VISIBLE:
                axis.fill_between(
                    rates, low, high, color=SKY, alpha=0.18, linewidth=0, label="all nodes: what is possible"
                )
            label = f"all nodes: {_area(measured.overall)}"
            axis.plot(curve.false_positives, curve.true_positives, color=ink(), linewidth=2.4, label=label)
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axis.set(xlabel="false positive rate", ylabel="true positive rate")
        grid(axis)
        bare(axis)
    if not drawn:
        raise SpecError("there is no ROC curve: the test data hold one class alone")
    _title(figure, axes[0], classes, f"ROC of {measured.model}")
    _legend(
        figure, axes[0], measured, "area under the curve" + (", mean of classes" if len(classes) > 1 else "")
    )
    return figure


def draw_calibration(measured: MeasuredStates) -> Any:
    """Draw how often what was predicted came true, and below how many examples have such a prediction."""
    scale, classes = scale_of(measured.overall), _classes(measured)
    figure, axes = _panels(classes, measured, 4.2, 4.8, below=True)
    for (axis, counts), place in zip(axes, classes, strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        for number, (node, state) in enumerate(measured.nodes.items()):
            found = reliability_of(state["sketches"][place], scale)
            full = found.count >= 0.5
            axis.plot(
                found.predicted[full],
                found.observed[full],
                marker=".",
                markersize=4,
                linewidth=1,
                alpha=0.85,
                label=short_name(node),
                **line_of(number),
            )
        _reliability(axis, counts, reliability_of(measured.overall["sketches"][place], scale))
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="fraction of positives")
        axis.tick_params(labelbottom=False)
        grid(axis)
        bare(axis)
        words = "predicted probability"
        counts.set(
            xlim=(-0.02, 1.02), xlabel=f"{words}, sigmoid of the scores" if scale == LOG_ODDS else words
        )
        counts.set_ylabel("examples")
        bare(counts)
    _title(figure, axes[0][0], classes, f"Calibration of {measured.model}")
    _legend(figure, axes[0][0], measured, "")
    return figure


def _reliability(axis: Any, counts: Any, found: Reliability) -> None:
    """Draw the bins of all nodes: with 95 % intervals, and the bounds where it is not known which bin examples are in."""
    full = found.count >= 0.5
    predicted, observed, number = found.predicted[full], found.observed[full], found.count[full]
    low, high = _wilson(observed, number)
    axis.vlines(predicted, low, high, color=ink(), linewidth=1)
    if np.nanmax(found.most[full] - found.least[full], initial=0.0) > 5 * VISIBLE:
        axis.bar(
            predicted,
            found.most[full] - found.least[full],
            bottom=found.least[full],
            width=0.05,
            color=SKY,
            alpha=0.2,
            linewidth=0,
            label="all nodes: what is possible",
        )
    axis.plot(
        predicted,
        observed,
        color=ink(),
        linewidth=2,
        marker="o",
        markersize=5,
        label="all nodes, 95 % interval",
    )
    counts.bar(
        (np.arange(BINS) + 0.5) / BINS, np.round(found.count), width=0.92 / BINS, color="0.55", linewidth=0
    )


def draw_confusion(measured: MeasuredStates) -> Any:
    """Draw the confusion matrix of all nodes: in each cell the examples, and their part of the true label's."""
    cells = cells_of(measured.overall)
    labels = sorted({label for pair in cells for label in pair}, key=label_key)
    if not labels:
        raise SpecError("there is no confusion matrix: the owners' limits let no cell leave")
    if len(labels) > MAX_MATRIX:
        raise SpecError(
            f"a matrix of {len(labels)} labels can't be read; at most {MAX_MATRIX} are drawn, and the counts are in "
            "result.raw"
        )
    counts = np.array([[cells.get((true, found), 0) for found in labels] for true in labels])
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    size, small = max(4.2, 1.6 + 0.62 * len(labels)), len(labels) <= 15
    longest = max(len(str(label)) for label in labels)
    figure = new_figure(size + 0.9 + 0.07 * min(longest, MAX_NAME), size)
    axis = figure.subplots()
    image = axis.imshow(np.ma.masked_where(counts == 0, shares), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            if counts[row, column] or small:
                text = f"{counts[row, column]:,}" + (f"\n{shares[row, column]:.0%}" if small else "")
                colour = (
                    "white" if shares[row, column] > 0.55 else "#1a1a1a" if counts[row, column] else NEUTRAL
                )
                axis.text(
                    column, row, text, ha="center", va="center", color=colour, fontsize=9 if small else 6
                )
    names = [short_name(label) for label in labels]
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if longest > 4 else {}
    axis.set_xticks(range(len(labels)), names, fontsize=9 if small else 7, **slanted)
    axis.set_yticks(range(len(labels)), names, fontsize=9 if small else 7)
    axis.set(xlabel="predicted", ylabel="true")
    axis.tick_params(length=0)
    bare(axis, "left", "bottom")
    bar = figure.colorbar(image, ax=axis, shrink=0.8, label="part of the true label")
    bar.outline.set_visible(False)
    joined = int(measured.overall["n"] - counts.sum())
    rest = f"\n{joined:,} rare errors are counted together and are in no cell" if joined else ""
    figure.suptitle(
        f"{measured.model[0].upper()}{measured.model[1:]}\n{measured.overall['n']:,} examples, "
        f"accuracy {value(measured.overall):.3f}{rest}",
        fontsize=10,
    )
    return figure


def _classes(measured: MeasuredStates) -> Sequence[int]:
    return range(min(len(measured.overall["sketches"]), MAX_CLASSES))


def _panels(
    classes: Sequence[int], measured: MeasuredStates, width: float, height: float, *, below: bool = False
) -> tuple[Any, list[Any]]:
    """Return a figure with a panel for each class, with another one below each, and room for names beside."""
    wide, high = min(len(classes), 3), -(-len(classes) // 3)
    beside = 0.9 + 0.07 * max((len(short_name(node)) for node in _named(measured)), default=0) + 1.0
    figure = new_figure(width * wide + beside, height * high)
    axes: list[Any] = []
    if below:
        grid = figure.subplots(
            2 * high, wide, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [3.2, 1] * high}
        )
        for place in range(wide * high):
            row, column = divmod(place, wide)
            axes.append((grid[2 * row][column], grid[2 * row + 1][column]))
    else:
        axes = list(figure.subplots(high, wide, squeeze=False).ravel())
    for place, axis in enumerate(axes):
        parts = axis if below else (axis,)
        if place >= len(classes):
            for part in parts:
                part.set_visible(False)
        elif len(classes) > 1:
            parts[0].set_title(f"class {classes[place]} against the rest", fontsize=9)
    return figure, axes


def _title(figure: Any, axis: Any, classes: Sequence[int], text: str) -> None:
    """Write the title over a single panel, or over all of them, whose own say the class."""
    if len(classes) > 1:
        figure.suptitle(text, fontsize=11)
    else:
        axis.set_title(text, fontsize=11)


def _named(measured: MeasuredStates) -> list[str]:
    return list(measured.nodes)[:MAX_LEGEND]


def _legend(figure: Any, axis: Any, measured: MeasuredStates, title: str) -> None:
    """Name the lines beside the panels; of more nodes than can be told apart say how many there are."""
    if len(measured.nodes) > MAX_LEGEND:
        for line in axis.get_lines():
            if line.get_label() in measured.nodes or line.get_label().split(": ")[0] in measured.nodes:
                line.set(label="_", color="0.6", linestyle="-", linewidth=0.7)
        axis.plot([], [], color="0.6", linewidth=0.7, label=f"{len(measured.nodes)} nodes")
    legend_beside(figure, axis, title=title)


def _area(state: Mapping[str, Any]) -> str:
    found, bound = value(state), error(state)
    if math.isnan(found):
        return "–"
    return f"{found:.3f} ± {bound:.3f}" if bound >= 0.0005 else f"{found:.3f}"


def _wilson(share: Any, number: Any) -> tuple[Any, Any]:
    """Return the 95 % interval of shares (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    factor = 1 + _WIDE**2 / number
    middle = share + _WIDE**2 / (2 * number)
    reach = _WIDE * np.sqrt(share * (1 - share) / number + _WIDE**2 / (4 * number**2))
    return (middle - reach) / factor, (middle + reach) / factor


def _highest(points: Any, rates: Any) -> Any:
    """Return the height of the highest curve at each place: of points above each other the upper one."""
    return np.maximum.accumulate(np.interp(rates, points[:, 0], np.maximum.accumulate(points[:, 1])))


def _lowest(points: Any, rates: Any) -> Any:
    order = np.lexsort((points[:, 1], points[:, 0]))
    return np.interp(rates, points[order, 0], points[order, 1])
