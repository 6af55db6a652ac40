"""The demo's report: a table that compares the ways to train, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.terminal.colours import BUSY, rich_style

if TYPE_CHECKING:
    from fedjob.demo.data import Shares

FEDERATED = "federated"
POOLED = "pooled"

_BLUE, _DARK, _GREY = "#1668b2", "#222222", "#8a8f98"
_DIGITS = (
    "#3b4cc0", "#6788ee", "#9abbff", "#c9d7f0", "#b5b5b5",
    "#e8c9a0", "#f7b389", "#ee8468", "#d0473d", "#8e0b25",
)  # fmt: skip

Marks = Mapping[str, list[dict[str, float]]]
"""The nodes that trained -> loss and accuracy on the common test set, at the start and after each round."""


def comparison(marks: Marks, num_rows: Mapping[str, int]) -> Any:
    """Return a table of the final loss and accuracy of each way to train, on the same test set."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("trained", "rows", "loss", "accuracy"):
        table.add_column(title, justify="left" if title == "trained" else "right")
    table.add_column("")
    for who, series in marks.items():
        last = series[-1]
        table.add_row(
            who if who in (FEDERATED, POOLED) else f"{who} alone",
            str(num_rows[who]),
            f"{last['loss']:.2f}",
            f"{last['accuracy']:.1%}",
            "█" * round(24 * last["accuracy"]),
            style=f"bold {rich_style(BUSY)}" if who == FEDERATED else None,
        )
    return table


def draw(marks: Marks, shares: Shares, path: Path) -> None:
    """Draw each node's data, the accuracy by round and the final accuracy; save them as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    holds, learns, ends = figure.subplots(1, 3, width_ratios=(1.0, 1.35, 1.0))
    _draw_holdings(holds, shares)
    _draw_learning(learns, marks)
    _draw_ends(ends, marks)
    for axis in (holds, learns, ends):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def _draw_holdings(axis: Any, shares: Shares) -> None:
    nodes = list(shares.counts)
    left = [0] * len(nodes)
    for digit, color in enumerate(_DIGITS):
        widths = [shares.counts[node][digit] for node in nodes]
        axis.barh(nodes, widths, left=left, color=color, edgecolor="white", linewidth=0.6, label=str(digit))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_title("What each node holds", loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel("images, by digit")
    axis.legend(
        ncols=10, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, fontsize=9,
        handlelength=0.8, handletextpad=0.3, columnspacing=0.8,
    )  # fmt: skip


def _draw_learning(axis: Any, marks: Marks) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    alone = [who for who in marks if who not in (FEDERATED, POOLED)]
    for who in alone:
        axis.plot(_accuracies(marks[who]), color=_GREY, linewidth=1.2, alpha=0.9)
    axis.plot(_accuracies(marks[POOLED]), color=_DARK, linewidth=1.6, linestyle=(0, (4, 2)))
    axis.plot(_accuracies(marks[FEDERATED]), color=_BLUE, linewidth=3, marker="o", markersize=4)
    for who, color in ((POOLED, _DARK), (FEDERATED, _BLUE)):
        axis.plot([], [], color=color, linewidth=3 if who == FEDERATED else 1.6,
                  linestyle="-" if who == FEDERATED else (0, (4, 2)), label=who)  # fmt: skip
    axis.plot([], [], color=_GREY, linewidth=1.2, label="a node alone")
    axis.set_title("Accuracy on a test that no node has seen", loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel("rounds of training")
    axis.set_ylim(0, 1.02)
    axis.set_xlim(0, None)
    axis.grid(alpha=0.25)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, loc="lower right", fontsize=9)


def _draw_ends(axis: Any, marks: Marks) -> None:
    colors = {FEDERATED: _BLUE, POOLED: _DARK}
    names = [who if who in colors else f"{who} alone" for who in marks]
    values = [series[-1]["accuracy"] for series in marks.values()]
    bars = axis.barh(names, values, color=[colors.get(who, _GREY) for who in marks], height=0.68)
    axis.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, fontsize=10)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_title("After the last round", loc="left", fontsize=11, fontweight="bold")


def _accuracies(series: list[dict[str, float]]) -> list[float]:
    return [mark["accuracy"] for mark in series]
