"""The pictures of the researcher's page as SVG: lines over rounds, bars of time, a grid of nodes and rounds. Pure.

Colours are classes of the page's style sheet, so that a picture is light or dark as the page is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fedjob.common.notebooks.plain_tables import number_text
from fedjob.common.pages.rendering import visible_text

NUM_COLOURS = 8
MAX_POINTS = 240
"""Points of a line that are drawn; of more every so many is left out, and the last one never."""

_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a picture.

    Args:
        points: (x, y), by rising x.
        colour: number of the colour, from 0; -1 for that of the whole.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = -1


def line_chart(lines: Sequence[Line], *, title: str) -> Markup:
    """Return lines with their axes, whole numbers to the right; an empty text where no point can be drawn.

    Args:
        title: read to whoever does not see it.
    """
    drawn = [(line, _finite(line.points)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return Markup("")
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    left, right = min(xs), max(xs)
    ticks = nice_ticks(min(ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)

    def at(x: float, y: float) -> tuple[float, float]:
        across_ = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return (
            _LEFT + across_ * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    pieces = [Markup("<title>{}</title>").format(visible_text(title))]
    for tick in ticks:
        y = at(left, tick)[1]
        pieces.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _WIDTH - _RIGHT, y, y
            )
            + Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(_LEFT - 6, y + 4, _tick_text(tick))
        )
    marks = (
        [left] if left == right else [tick for tick in nice_ticks(left, right, 5) if left <= tick <= right]
    )
    for mark in marks:
        if mark != int(mark):
            continue
        x = at(mark, low)[0]
        pieces.append(
            Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(x, _HEIGHT - 6, _tick_text(mark))
        )
    pieces += [_line(line, [at(x, y) for x, y in points], points[-1][1]) for line, points in drawn]
    return _svg(_WIDTH, _HEIGHT, pieces, "chart")


def _line(line: Line, places: Sequence[tuple[float, float]], last: float) -> Markup:
    kind = "whole" if line.colour < 0 else f"c{line.colour % NUM_COLOURS}"
    named = Markup("<title>{}: {}</title>").format(visible_text(line.name), number_text(last))
    if len(places) == 1:
        dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4">').format(kind, *places[0])
        return dot + named + Markup("</circle>")
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Markup('<polyline class="line {}" points="{}">').format(kind, path) + named + Markup("</polyline>")


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and abs(y) < 1e300]
    step = -(-len(found) // MAX_POINTS)
    return found if step <= 1 else [*found[:-1][::step], found[-1]]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`, about `most` of them."""
    if not high > low:
        space = abs(low) * 0.1 or 1.0
        low, high = low - space, high + space
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _tick_text(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 else f"{value:.1e}"


def stage_bar(seconds: Mapping[str, float], whole_s: float) -> Markup:
    """Return a node's stages as one bar of a width that all bars of a round share.

    Args:
        whole_s: seconds of the full width.
    """
    pieces, at = [], 0.0
    for stage, took in seconds.items():
        wide = 1000 * took / whole_s if whole_s > 0 else 0.0
        pieces.append(
            Markup(
                '<rect class="stage-{}" x="{:.1f}" y="0" width="{:.1f}" height="10"><title>{}: {}</title></rect>'
            ).format(stage, at, max(wide, 0.5), stage, seconds_text(took))
        )
        at += wide
    words = ", ".join(f"{stage} {seconds_text(took)}" for stage, took in seconds.items())
    return (
        Markup(
            '<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        ).format(words)
        + Markup("").join(pieces)
        + Markup("</svg>")
    )


def part_grid(
    nodes: Sequence[str], rounds: Sequence[int], kinds: Mapping[tuple[str, int], tuple[str, str]]
) -> Markup:
    """Return a row for each node and a column for each round.

    Args:
        kinds: (node, round) -> class of the place and the words for it; others are `none`, "not chosen".
    """
    side, left = 16, 8 * min(22, max([4, *map(len, nodes)])) + 10
    wide, high = left + side * len(rounds) + 4, side * len(nodes) + 24
    pieces = [Markup("<title>Who took part in rounds {} to {}</title>").format(rounds[0], rounds[-1])]
    for row, node in enumerate(nodes):
        shown = node if len(node) <= 22 else node[:21] + "…"
        pieces.append(
            Markup('<text class="name" x="{}" y="{}">{}</text>').format(
                left - 8, row * side + 12, visible_text(shown)
            )
        )
        for column, number in enumerate(rounds):
            kind, words = kinds.get((node, number), ("none", "not chosen"))
            pieces.append(
                Markup(
                    '<rect class="part-{}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}, round {}: {}</title></rect>'
                ).format(
                    kind,
                    left + column * side,
                    row * side,
                    side - 2,
                    side - 2,
                    visible_text(node),
                    number,
                    visible_text(words),
                )
            )
    every = max(1, len(rounds) // 8)
    for column, number in enumerate(rounds):
        if column % every == 0:
            pieces.append(
                Markup('<text class="x" x="{}" y="{}">{}</text>').format(
                    left + column * side + 7, side * len(nodes) + 15, number
                )
            )
    return _svg(wide, high, pieces, "grid", fixed=True)


def _svg(wide: float, high: float, pieces: Sequence[Markup], kind: str, *, fixed: bool = False) -> Markup:
    size = Markup(' width="{}" height="{}"').format(wide, high) if fixed else Markup("")
    return (
        Markup('<svg class="{}" viewBox="0 0 {} {}" role="img"{}>').format(kind, wide, high, size)
        + Markup("").join(pieces)
        + Markup("</svg>")
    )


def seconds_text(seconds: float) -> str:
    """Return seconds as people read them: `38 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def legend(names: Mapping[str, int]) -> Markup:
    """Return the names of lines beside their colours.

    Args:
        names: name -> number of its colour; -1 for that of the whole.
    """
    items = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 16 10" aria-hidden="true"><line class="line {}" x1="0" x2="16" y1="5" y2="5"/></svg>{}</li>'
        ).format("whole" if colour < 0 else f"c{colour % NUM_COLOURS}", escape(visible_text(name)))
        for name, colour in names.items()
    )
    return Markup('<ul class="legend">{}</ul>').format(items)
