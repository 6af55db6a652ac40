"""The picture of metrics over the rounds, of few nodes and of many."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.figure import MAX_LEGEND
from fedjob.researcher.results.pictures.history import plot_history
from fedjob.researcher.storage.measurements import OVERALL, Measurement


def rows(num_nodes: int, *metrics: str) -> list[Measurement]:
    names = [*(f"hospital-{place:02}" for place in range(num_nodes)), OVERALL]
    return [
        Measurement(
            round=round_, phase="before", metric=metric, node=node, value=0.1 * round_, num_examples=9
        )
        for round_ in (1, 2, 3)
        for metric in metrics
        for node in names
    ]


def names_in(figure: Any) -> list[str]:
    return [entry.get_text() for entry in figure.legends[0].get_texts()]


def test_every_node_has_a_line_of_its_own_and_a_name_beside_the_panels() -> None:
    figure = plot_history(rows(20, "loss"), None)
    (axis,) = figure.axes
    lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 3]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == 21
    assert [line.get_linewidth() for line in lines][-1] == 2.4
    assert lines[-1].get_xdata().tolist() == [0, 1, 2]
    assert names_in(figure) == ["all nodes", *(f"hospital-{place:02}" for place in range(20))]
    figure.draw_without_rendering()
    beside = figure.legends[0].get_window_extent()
    assert not axis.get_window_extent().overlaps(beside)
    assert beside.y0 >= 0  # names that do not fit would be cut off


def test_more_nodes_than_can_be_told_apart_are_grey_and_counted() -> None:
    assert names_in(plot_history(rows(MAX_LEGEND + 1, "loss"), None)) == [
        "all nodes",
        f"{MAX_LEGEND + 1} nodes",
    ]


def test_a_confusion_matrix_is_not_drawn_beside_the_accuracy_that_its_value_is() -> None:
    drawn = plot_history(rows(2, "accuracy", "confusion_matrix"), None)
    assert [axis.get_ylabel() for axis in drawn.axes] == ["accuracy"]
    asked = plot_history(rows(2, "accuracy", "confusion_matrix"), ["confusion_matrix"])
    assert [axis.get_ylabel() for axis in asked.axes] == ["confusion_matrix"]
    with pytest.raises(SpecError, match="asked for f1, the history has loss"):
        plot_history(rows(2, "loss"), ["f1"])


@pytest.mark.parametrize("num_rounds", [1, 2, 3, 40])
def test_rounds_are_whole_numbers_of_the_axis_however_few(num_rounds: int) -> None:
    measured = [
        Measurement(round=round_, phase="validate", metric="loss", node=OVERALL, value=0.1, num_examples=9)
        for round_ in range(1, num_rounds + 1)
    ]
    figure = plot_history(measured, None)
    (axis,) = figure.axes
    figure.draw_without_rendering()
    low, high = axis.get_xlim()
    shown = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert shown
    assert all(float(tick).is_integer() for tick in shown)
    assert {1, num_rounds} & set(shown)
