"""The pictures of classifiers, from replies as a job keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjob.common.errors import SpecError
from fedjob.messaging.messages import Result
from fedjob.metrics.confusion import state_of
from fedjob.metrics.disclosure import disclosed
from fedjob.metrics.states import add, measure, value
from fedjob.researcher.results.pictures.classification import draw_calibration, draw_confusion, draw_roc
from fedjob.researcher.results.pictures.figure import MAX_LEGEND, NEUTRAL
from fedjob.researcher.results.pictures.measured_states import MeasuredStates, states_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL, Measurement
from fedjob.researcher.storage.replies import Arrival, keep_replies, keep_summed


def state_at(seed: int, size: int = 80, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, size)
    scores = 1 / (1 + np.exp(-2 * (truth - 0.5 + rng.normal(size=size))))
    state: dict[str, Any] = disclosed(measure(["roc_auc"], scores * scale, truth), 0)["roc_auc"]
    return state


def measured(states: Mapping[str, dict[str, Any]]) -> MeasuredStates:
    first, *rest = states.values()
    for state in rest:
        first = add(first, state)
    return MeasuredStates(round=3, phase="validate", nodes=states, overall=first)


def texts(legend: Any) -> list[str]:
    return [entry.get_text() for entry in legend.get_texts()]


def keep(folder: JobFolder, round_: int, step: str, phase: str, states: Mapping[str, dict[str, Any]]) -> None:
    """Keep replies as a job does, that of node c in the form of what was too large for a message."""
    arrivals = {}
    for node, state in states.items():
        result = Result(of=node, key="", ok=True, metrics={phase: {"roc_auc": state}})
        arrivals[node] = Arrival(node=node, result=result)
    keep_replies(folder, round_, step, arrivals)


def row(round_: int, phase: str, metric: str, node: str) -> Measurement:
    return Measurement(round=round_, phase=phase, metric=metric, node=node, value=0.5, num_examples=80)


def rows_of(places: Mapping[tuple[int, str], tuple[str, ...]]) -> list[Measurement]:
    rows = [row(1, "train", "loss", OVERALL)]
    for (round_, phase), nodes in places.items():
        rows += [row(round_, phase, "roc_auc", node) for node in (*nodes, OVERALL)]
    return rows


def test_the_states_are_those_of_the_last_shared_model_and_of_the_nodes_that_count(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    keep(folder, 1, "train", "before", {"a": state_at(1), "b": state_at(2)})
    keep(folder, 2, "train", "before", {"a": state_at(3), "b": state_at(4), "late": state_at(5)})
    keep(folder, 3, "validate", "validate", {"b": state_at(7), "a": state_at(6)})
    places = {(1, "before"): ("a", "b"), (2, "before"): ("a", "b"), (2, "validate"): ("a", "b")}
    rows = rows_of(places)
    last = states_of(folder, rows, "roc_auc", "auc")
    assert (last.round, last.model) == (2, "the shared model after round 2")
    assert last.nodes == {"a": state_at(6), "b": state_at(7)}
    assert last.overall == add(state_at(6), state_at(7))
    first = states_of(folder, rows, "roc_auc", "auc", 1)
    assert (first.model, first.nodes["a"]) == ("the shared model before round 1", state_at(1))
    without = states_of(folder, rows_of({(2, "before"): ("a", "b")}), "roc_auc", "auc")
    assert sorted(without.nodes) == ["a", "b"]  # the reply of a node that was left out is no part of it


def test_of_a_secure_sum_there_is_the_curve_of_all_nodes_alone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    keep_replies(folder, 2, "validate", {"a": Arrival(node="a", result=Result(of="", key="", ok=True))})
    keep_summed(folder, 2, "validate", {"validate": {"roc_auc": state_at(1)}})
    found = states_of(folder, rows_of({(1, "validate"): ()}), "roc_auc", "auc")
    assert (found.nodes, found.overall) == ({}, state_at(1))
    figure = draw_roc(found)
    assert len(texts(figure.legends[0])) == 2
    assert draw_calibration(found).axes


def test_what_was_not_measured_or_not_kept_is_named(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    with pytest.raises(
        SpecError, match=r"roc_auc was not measured, the history has loss: .*test_on_global_updates"
    ):
        states_of(folder, rows_of({}), "roc_auc", "auc")
    rows = rows_of({(2, "before"): ("a",)})
    with pytest.raises(SpecError, match="not measured in round 7: the rounds are 2"):
        states_of(folder, rows, "roc_auc", "auc", 7)
    with pytest.raises(SpecError, match="not in the job's folder"):
        states_of(folder, rows, "roc_auc", "auc")


def test_a_curve_for_each_node_and_a_thick_one_for_all_with_their_areas() -> None:
    states = {"a": state_at(1), "b": state_at(2)}
    figure = draw_roc(measured(states))
    (axis,) = figure.axes
    lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_linewidth() for line in lines] == [1, 1, 2.4]
    names = texts(figure.legends[0])
    assert names[0].startswith(f"a: {value(states['a']):.3f}")
    assert any(name.startswith("all nodes: what is possible") for name in names)
    for line in lines:
        points = line.get_xydata()
        assert points[0].tolist() == [0, 0]
        assert points[-1].tolist() == [1, 1]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_more_nodes_than_colours_are_grey_and_counted() -> None:
    states = {f"node-{place:02}": state_at(place, 40) for place in range(MAX_LEGEND + 6)}
    for draw in (draw_roc, draw_calibration):
        names = texts(draw(measured(states)).legends[0])
        assert f"{MAX_LEGEND + 6} nodes" in names
        assert len(names) <= 3


def test_calibration_says_where_scores_went_through_the_sigmoid_and_counts_all_examples() -> None:
    figure = draw_calibration(measured({"a": state_at(1), "b": state_at(2)}))
    above, below = figure.axes
    assert below.get_xlabel() == "predicted probability"
    assert sum(patch.get_height() for patch in below.patches) == pytest.approx(160, abs=5)
    assert above.get_ylabel() == "fraction of positives"
    margins = draw_calibration(measured({"a": state_at(1, scale=9.0)}))
    assert margins.axes[1].get_xlabel() == "predicted probability, sigmoid of the scores"


def test_several_classes_have_a_panel_each() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 200)
    state = measure(["roc_auc"], rng.normal(size=(200, 4)) + 2 * np.eye(4)[truth], truth)["roc_auc"]
    figure = draw_roc(measured({"a": disclosed({"x": state}, 0)["x"]}))
    shown = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert shown == [f"class {place} against the rest" for place in range(4)]
    assert len([axis for axis in draw_calibration(measured({"a": state})).axes if axis.get_visible()]) == 8


def test_one_class_has_no_curve() -> None:
    state = measure(["roc_auc"], [0.1, 0.2], [1, 1])["roc_auc"]
    with pytest.raises(SpecError, match="one class alone"):
        draw_roc(measured({"a": state}))


def test_the_matrix_has_counts_and_parts_of_the_true_label_and_says_what_is_in_no_cell() -> None:
    state = state_of(103, {("ill", "ill"): 30, ("ill", "well"): 10, ("well", "well"): 60})
    figure = draw_confusion(measured({"a": state}))
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["30\n75%", "10\n25%", "0\n0%", "60\n100%"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ill", "well"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")
    drawn = axis.get_images()[0].get_array()
    assert drawn.mask.tolist() == [[False, False], [True, False]]  # no white box in a dark notebook
    assert axis.texts[2].get_color() == NEUTRAL
    title = figure.get_suptitle()
    assert "103 examples, accuracy 0.874" in title
    assert "3 rare errors are counted together" in title


def test_a_matrix_of_no_cells_or_too_many_labels_is_refused() -> None:
    with pytest.raises(SpecError, match="let no cell leave"):
        draw_confusion(measured({"a": state_of(4, {})}))
    with pytest.raises(SpecError, match="at most 40 are drawn"):
        draw_confusion(measured({"a": state_of(41, {(label, label): 1 for label in range(41)})}))
