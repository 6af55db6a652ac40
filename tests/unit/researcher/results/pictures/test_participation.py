"""The picture of who took part in which round."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    grid = axis.images[0].get_array()
    states = list(COLOURS)
    assert [[states[value] for value in row] for row in grid.tolist()] == [
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
    assert len(figure.axes[0].get_yticklabels()) == 60


def test_a_job_without_rounds_has_no_picture() -> None:
    with pytest.raises(SpecError, match="no round has been completed"):
        plot_participation({}, ["a"], None)
