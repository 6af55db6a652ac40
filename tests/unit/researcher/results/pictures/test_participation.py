"""The picture of who took part in which round."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import same_color

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.participation import (
    ANSWERED,
    COLOURS,
    LEFT_OUT,
    NOT_CHOSEN,
    RoundPart,
    plot_participation,
)


def test_every_node_and_round_has_its_place(tmp_path: Path) -> None:
    rounds = {1: RoundPart(("a", "b"), ()), 2: RoundPart(("a",), {"b": "silent"}), 4: RoundPart(("b",), ())}
    figure = plot_participation(rounds, ["a", "b", "c"], tmp_path / "who.png")
    (axis,) = figure.axes
    drawn = [["" for _ in range(4)] for _ in range(3)]
    for bars in axis.collections:
        (state,) = [name for name, colour in COLOURS.items() if same_color(colour, bars.get_facecolor()[0])]
        for path in bars.get_paths():
            middle = path.get_extents()
            row, column = round((middle.y0 + middle.y1) / 2), round((middle.x0 + middle.x1) / 2) - 1
            drawn[row][column] = state
    assert drawn == [
        [ANSWERED, ANSWERED, NOT_CHOSEN, NOT_CHOSEN],
        [ANSWERED, LEFT_OUT, NOT_CHOSEN, ANSWERED],
        [NOT_CHOSEN] * 4,
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert [entry.get_text() for entry in axis.get_legend().get_texts()] == [ANSWERED, LEFT_OUT, NOT_CHOSEN]
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")


def test_many_nodes_and_rounds_are_drawn() -> None:
    nodes = [f"n{i}" for i in range(500)]
    figure = plot_participation({i: RoundPart(nodes, ()) for i in range(1, 1000)}, nodes, None)
    (axis,) = figure.axes
    assert len(axis.get_yticklabels()) == 60
    assert axis.get_title(loc="left") == "the first 60 of 500 nodes"
    assert sum(len(bars.get_paths()) for bars in axis.collections) == 60


def test_long_names_are_cut_and_one_round_has_one_number() -> None:
    figure = plot_participation({3: RoundPart(("n" * 200,), ())}, [], None)
    (axis,) = figure.axes
    figure.draw_without_rendering()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["n" * 31 + "…"]
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [3]


def test_a_job_without_rounds_has_no_picture() -> None:
    with pytest.raises(SpecError, match="no round has been completed"):
        plot_participation({}, ["a"], None)
