"""The charts of what a job measures: each metric over the rounds, every node thin and all together thick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedjob.common.checks import is_number
from fedjob.researcher.page.charts import Line, legend, line_chart
from fedjob.researcher.results.pictures.history import PANELS
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.measurements import OVERALL, Measurement, series

MAX_NODES = 24
"""Nodes that have a line of their own; of more, only all together are drawn."""

MAX_CHARTS = 12
_QUIET = frozenset(
    (
        "iteration",
        "epoch",
        "epochs",
        "samples",
        "round",
        "num_updates",
        "total_iterations",
        "batch_size",
        "of",
        "n",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture with its title.

    Args:
        about: in small letters behind the title.
    """

    title: str
    about: str
    picture: Markup


def history_charts(rows: Sequence[Measurement], colours: Mapping[str, int]) -> list[Chart]:
    """Return a chart for each metric and kind of model that was measured.

    Args:
        colours: node -> number of its colour.
    """
    found = []
    for about, shifts in PANELS.items():
        for metric in dict.fromkeys(row.metric for row in rows if row.phase in shifts):
            points: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row.metric == metric and row.phase in shifts:
                    points.setdefault(row.node, []).append((row.round + shifts[row.phase], row.value))
            nodes = [node for node in points if node != OVERALL]
            shown = [] if len(nodes) > MAX_NODES else sorted(nodes)
            lines = [
                Line(name=node, points=tuple(sorted(points[node])), colour=colours.get(node, 0))
                for node in shown
            ]
            if OVERALL in points:
                lines.append(Line(name="all nodes", points=tuple(sorted(points[OVERALL]))))
            picture = line_chart(lines, title=f"{metric} of the {about} over the rounds")
            if picture:
                found.append(Chart(title=metric, about=f"{about}, by round", picture=picture))
    return found[:MAX_CHARTS]


def live_charts(events: Iterable[JobEvent], round_: int, colours: Mapping[str, int]) -> list[Chart]:
    """Return a chart for each metric that nodes report while they train in one round."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in events:
        body = event.body
        if event.type != "metrics" or not event.node or event.round != round_ or body.get("phase") != "train":
            continue
        at = body.get("iteration")
        for name, value in body.items():
            if is_number(value) and is_number(at) and name not in _QUIET:
                points.setdefault(name, {}).setdefault(event.node, []).append((float(at), float(value)))  # type: ignore[arg-type]
    found = []
    for name, nodes in points.items():
        lines = [
            Line(name=node, points=tuple(sorted(places)), colour=colours.get(node, 0))
            for node, places in sorted(nodes.items())[:MAX_NODES]
        ]
        picture = line_chart(lines, title=f"{name} in round {round_} while nodes train")
        if picture:
            found.append(
                Chart(title=name, about=f"while nodes train in round {round_}, by step", picture=picture)
            )
    return found[:MAX_CHARTS]


def compared_charts(jobs: Mapping[str, Sequence[Measurement]], metrics: Sequence[str]) -> list[Chart]:
    """Return a chart for each metric, with a line for each job over all its nodes.

    Args:
        jobs: name -> what it measured, in the order of their colours.
    """
    found = []
    for metric in metrics[:MAX_CHARTS]:
        lines = []
        for colour, (name, rows) in enumerate(jobs.items()):
            points = tuple((float(at), value) for at, value in series(rows, metric).items())
            lines.append(Line(name=name, points=points, colour=colour))
        picture = line_chart(lines, title=f"{metric} over the rounds, job by job")
        if picture:
            found.append(Chart(title=metric, about="over all nodes, by round", picture=picture))
    return found


def colours_of(nodes: Iterable[str]) -> dict[str, int]:
    """Return the number of each node's colour: the same in every picture of a job."""
    return {node: number for number, node in enumerate(sorted(nodes))}


def node_legend(colours: Mapping[str, int]) -> Markup:
    """Return the names of the nodes beside their colours."""
    shown = dict(colours) if len(colours) <= MAX_NODES else {}
    return legend({**shown, "all nodes": -1})
