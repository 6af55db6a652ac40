"""The picture of survival, with the numbers at risk beneath."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from fedjob.common.errors import SpecError
from fedjob.protocols.analytics.survival.life_table import logrank_table, survival_table
from fedjob.researcher.results.pictures.survival import MAX_GROUPS, at_risk, draw_survival

TIMES = [0.0, 10.0, 20.0, 30.0]
GROUPS = {
    "0": {"events": [0, 4, 3, 2], "censored": [0, 1, 0, 2]},
    "1": {"events": [0, 1, 0, 1], "censored": [0, 0, 6, 4]},
}
CONFIG = {"duration": "months", "event": "died"}


def tables(groups: dict[str, Any], by: list[str]) -> dict[str, Any]:
    found = {"survival": survival_table(by, TIMES, groups)}
    return found | ({"logrank": logrank_table(groups)} if len(groups) > 1 else {})


def test_each_group_has_a_curve_in_steps_and_its_numbers_at_risk() -> None:
    figure = draw_survival(tables(GROUPS, ["arm"]), CONFIG)
    above, beneath = figure.axes
    assert (above.get_xlabel(), above.get_ylabel()) == ("months", "survival")
    steps = [line for line in above.get_lines() if line.get_drawstyle() == "steps-post"]
    assert [line.get_label() for line in steps] == ["arm 0", "arm 1"]
    assert steps[0].get_ydata().tolist() == pytest.approx([1, 8 / 12, 8 / 12 * 4 / 7, 8 / 12 * 4 / 7 * 2 / 4])
    assert above.get_legend().get_title().get_text().startswith("log-rank p = 0.0")
    assert [label.get_text() for label in beneath.get_yticklabels()] == ["arm 0", "arm 1"]
    numbers = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in beneath.texts}
    assert [numbers[10.0, row] for row in (0, 1)] == ["12", "12"]
    assert [numbers[20.0, row] for row in (0, 1)] == ["7", "11"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_at_risk_between_and_after_the_times_of_the_table() -> None:
    part = survival_table([], TIMES, {"": GROUPS["0"]})
    assert [at_risk(part, time) for time in (0, 1, 10, 15, 30, 31, 90)] == [12, 12, 12, 7, 4, 0, 0]


def test_one_group_has_no_legend_and_too_many_or_none_are_refused() -> None:
    assert draw_survival(tables({"": GROUPS["0"]}, []), CONFIG).axes[0].get_legend() is None
    many = {str(place): GROUPS["0"] for place in range(MAX_GROUPS + 1)}
    with pytest.raises(SpecError, match="at most 6 groups, these are 7"):
        draw_survival(tables(many, ["ward"]), CONFIG)
    with pytest.raises(SpecError, match="let no group leave"):
        draw_survival({"survival": pd.DataFrame(columns=["time", "survival"])}, CONFIG)
