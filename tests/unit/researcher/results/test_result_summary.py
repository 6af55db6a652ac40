"""The summary of a result: its tables, and a report that reads as a paper's table does."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from fedjob.common.errors import SpecError
from fedjob.researcher.results.pictures.analysis import pictures_of, ratio_ticks
from fedjob.researcher.results.result_summary import metrics_table, p_text, ratio_table, report_of, tables_of
from fedjob.researcher.storage.measurements import OVERALL, Measurement

COEFFICIENTS = pd.DataFrame(
    {
        "term": ["intercept", "age", "sex"],
        "estimate": [-6.0, math.log(2.0), 0.0],
        "std_error": [1.0, 0.1, 0.2],
        "statistic": [-6.0, 6.93, 0.0],
        "p_value": [1e-9, 4e-12, 1.0],
        "low": [-8.0, math.log(1.5), math.log(0.5)],
        "high": [-4.0, math.log(3.0), math.log(2.0)],
    }
)
VALUE = {
    "coefficients": COEFFICIENTS,
    "rows": 400,
    "log_likelihood": -238.93,
    "nodes": {"a": 200, "b": 200},
    "coverage": pd.DataFrame({"node": ["a"], "rows": [200]}),
}


def test_a_ratio_has_its_own_interval_and_the_intercept_none() -> None:
    ratios = ratio_table(COEFFICIENTS, "odds ratio")
    assert ratios.columns.tolist() == ["term", "odds_ratio", "low", "high", "p_value"]
    assert ratios["term"].tolist() == ["age", "sex"]
    assert ratios.iloc[0, 1:4].tolist() == pytest.approx([2.0, 1.5, 3.0])
    assert ratios.iloc[1, 1:4].tolist() == pytest.approx([1.0, 0.5, 2.0])


def test_a_regression_reads_as_statsmodels_shows_it() -> None:
    report = report_of(VALUE, "logistic_regression", {"target": "sick"}, "2 of 2 nodes, 400 of 400 rows")
    assert str(report) == (
        "Logistic regression of sick\n\n"
        "rows            400\n"
        "log-likelihood  -238.9\n\n"
        "Coefficients\n"
        "term         coef  std err       z   P>|z|   [0.025  0.975]\n"
        "intercept  -6.000    1.000  -6.000  <0.001   -8.000  -4.000\n"
        "age        0.6931   0.1000   6.930  <0.001   0.4055   1.099\n"
        "sex             0   0.2000       0   1.000  -0.6931  0.6931\n\n"
        "Odds ratios\n"
        "term  odds ratio  [0.025  0.975]\n"
        "age        2.000   1.500   3.000\n"
        "sex        1.000  0.5000   2.000\n\n"
        "2 of 2 nodes, 400 of 400 rows"
    )


def test_hazard_ratios_do_not_stand_beside_the_interval_of_their_logarithm() -> None:
    cox = COEFFICIENTS.iloc[1:].assign(hazard_ratio=[2.0, 1.0])
    value = {"coefficients": cox, "rows": 4, "events": 2}
    report = report_of(value, "cox_regression", {"duration": "time", "event": "dead"}, "")
    coefficients, ratios = report.tables
    assert "hazard" not in " ".join(coefficients.header)
    assert ratios.header == ("term", "hazard ratio", "[0.025", "0.975]")
    assert report.title == "Cox regression of time with event dead"


def test_a_linear_regression_has_no_ratios_and_students_t() -> None:
    report = report_of(VALUE, "linear_regression", {"target": "chol"}, "")
    (coefficients,) = report.tables
    assert "P>|t|" in coefficients.header


@pytest.mark.parametrize(
    ("value", "text"), [(1e-12, "<0.001"), (0.0379, "0.038"), (1.0, "1.000"), (math.nan, "–")]
)
def test_p_values_are_as_in_papers(value: float, text: str) -> None:
    assert p_text(value) == text


def test_an_interval_that_overflows_is_shown() -> None:
    wide = COEFFICIENTS.assign(high=[1e6, 1e6, 1e6])
    report = report_of({"coefficients": wide}, "logistic_regression", {"target": "y"}, "")
    assert "∞" in str(report)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.5, ["value", "3.5"]),
        ("text", ["text"]),
        (None, ["None"]),
        ([1, 2], ["[1, 2]"]),
        ({}, ["{}"]),
        ({"a": 54.4, "b": 59.4}, ["a", "54.40", "59.40"]),
        (
            {"all": {"accuracy": 0.83}, "a": {"accuracy": 0.8, "auc": None}},
            ["node", "accuracy", "auc", "0.8300"],
        ),
        ({"a": object(), "b": {"c": [1]}}, ["object"]),
        (pd.DataFrame({"x": [1, None]}), ["x", "1.000"]),
        ({"a": pd.DataFrame({"x": []})}, ["a", "x"]),
        (pd.DataFrame({f"c{i}": [i] for i in range(40)}), ["c11", "28 more"]),
    ],
)
def test_any_value_has_a_report(value: Any, words: list[str]) -> None:
    report = report_of(value, "function", {}, "1 of 1 nodes")
    for text in (str(report), report._repr_html_()):
        assert all(word in text for word in words), text
        assert "1 of 1 nodes" in text
    report.to_latex()
    report.to_markdown()


def test_what_was_asked_for_stands_there_and_what_says_whom_it_is_about_in_the_last_line() -> None:
    tables = tables_of(VALUE, "logistic_regression")
    assert list(tables) == ["coefficients", "coverage", "odds_ratios"]
    report = report_of(VALUE, "logistic_regression", {"target": "y"}, "about")
    assert [table.name for table in report.tables] == ["Coefficients", "Odds ratios"]


def test_the_last_metrics_have_a_row_for_each_node_and_all_nodes_last() -> None:
    def row(round_: int, node: str, value: float, metric: str = "loss") -> Measurement:
        return Measurement(
            round=round_, phase="train", metric=metric, node=node, value=value, num_examples=1.0, error=0.0
        )

    found = metrics_table(
        [
            row(1, "a", 9.0),
            row(2, OVERALL, 2.0),
            row(2, "a", 1.0),
            row(2, "zoo", 3.0),
            row(2, "a", 0.5, "auc"),
        ]
    )
    assert found is not None
    assert found.header == ("node", "loss (train)", "auc (train)")
    assert [line[0] for line in found.rows] == ["a", "zoo", "all nodes"]
    assert found.rows[0][1:] == ("1.000", "0.5000")
    assert metrics_table([]) is None
    repeated = metrics_table([row(1, "a", 0.5, "accuracy"), row(1, "a", 0.5, "confusion_matrix")])
    assert repeated is not None
    assert repeated.header == ("node", "accuracy (train)")
    alone = metrics_table([row(1, "a", 0.5, "confusion_matrix")])
    assert alone is not None
    assert alone.header == ("node", "confusion_matrix (train)")


def test_a_forest_and_histograms_are_drawn_and_anything_else_is_refused() -> None:
    tables = tables_of(VALUE, "logistic_regression")
    figure = pictures_of(tables, VALUE, "logistic_regression", {})["coefficients"]()
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["age", "sex"]
    assert axis.get_xscale() == "log"
    bins = pd.DataFrame(
        {
            "sex": [0, 0, 1],
            "column": ["age"] * 3,
            "low": [1, 2, -math.inf],
            "high": [2, 3, 1],
            "count": [4, 5, 6],
        }
    )
    panels = pictures_of({"histogram": bins}, {}, "statistics", {})["histogram"]().axes
    assert [panel.get_title() for panel in panels] == ["sex 0", "sex 1, 6 rows outside"]
    assert [panel.get_xlabel() for panel in panels] == ["age", "age"]
    assert [patch.get_height() for patch in panels[0].patches] == [4, 5]
    with pytest.raises(SpecError, match="nothing to plot"):
        pictures_of({}, {}, "function", {})


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.5, 1.5), (0.9, 1.1), (0.97, 1.04), (0.01, 40.0), (1.2, 3.0), (1e-9, 1e12), (0.999, 1.001)],
)
def test_an_axis_of_ratios_names_some_and_not_too_many(low: float, high: float) -> None:
    ticks = ratio_ticks(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)
    assert (1.0 in ticks) == (low <= 1 <= high)
