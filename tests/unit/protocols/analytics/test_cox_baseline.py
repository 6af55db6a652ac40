"""The baseline of a Cox regression, and the survival that follows for given rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.common.errors import SpecError
from fedjob.protocols.analytics.cox import event_times, partial_likelihood, sums_at
from fedjob.protocols.analytics.design import Design
from fedjob.protocols.analytics.survival.breslow import baseline_of, hazard_sums, predicted_survival

TIMES = np.array([2.0, 3.0, 3.0, 5.0, 6.0, 6.0, 8.0, 9.0, 11.0, 12.0])
EVENTS = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
AGES = np.array([61.0, 70.0, 48.0, 55.0, 66.0, 41.0, 59.0, 52.0, 45.0, 50.0])
WARD = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])


def fitted() -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries of a result, and the terms, coefficients and covariance that they are of."""
    terms = np.column_stack([AGES, WARD])
    means, scales = terms.mean(axis=0), terms.std(axis=0)
    design = Design(("age", "ward"), {"ward": ["0", "b"]}, means.tolist(), scales.tolist())
    scaled, at = (terms - means) / scales, np.zeros(2)
    times = event_times(TIMES, EVENTS)
    for _ in range(30):
        found = partial_likelihood(sums_at(scaled, TIMES, EVENTS, at, times), at)
        at = at + np.linalg.solve(np.asarray(found["hessian"]), np.asarray(found["gradient"]))
    total = sums_at(scaled, TIMES, EVENTS, at, times)
    own, covariance = design.in_their_units(at, np.linalg.inv(np.asarray(found["hessian"])))
    value = baseline_of(times, total["events"], hazard_sums(total), design, own, covariance)
    return value, terms, own, covariance


def cumulative(b: np.ndarray, terms: np.ndarray, row: np.ndarray, time: float) -> float:
    """Return Breslow's cumulative hazard of a row, straight from its definition."""
    total = 0.0
    for each in np.unique(TIMES[(EVENTS == 1) & (time >= TIMES)]):
        number = ((each == TIMES) & (EVENTS == 1)).sum()
        total += number / np.exp((terms[each <= TIMES] - row) @ b).sum()
    return total


def test_intervals_are_those_of_the_delta_method() -> None:
    value, terms, b, covariance = fitted()
    rows = pd.DataFrame({"age": [50.0, 66.0], "ward": ["b", 0]})
    found = predicted_survival(value, rows, times=[4, 9, 100])
    for (_, line), (row, time) in zip(
        found.iterrows(),
        [(np.array(row), time) for row in ((50.0, 1.0), (66.0, 0.0)) for time in (4, 9, 100)],
        strict=True,
    ):
        hazard = cumulative(b, terms, row, time)
        assert line["cumulative_hazard"] == pytest.approx(hazard, rel=1e-9)
        assert line["survival"] == pytest.approx(np.exp(-hazard), rel=1e-9)
        step = 1e-5
        slope = np.array(
            [
                (cumulative(b + step * e, terms, row, time) - cumulative(b - step * e, terms, row, time))
                / 2
                / step
                for e in np.eye(2)
            ]
        )
        fixed = sum(
            ((each == TIMES) & (EVENTS == 1)).sum() / np.exp((terms[each <= TIMES] - row) @ b).sum() ** 2
            for each in np.unique(TIMES[(EVENTS == 1) & (time >= TIMES)])
        )
        reach = np.exp(1.959963984540054 * np.sqrt(fixed + slope @ covariance @ slope) / hazard)
        assert line["low"] == pytest.approx(np.exp(-hazard * reach), rel=1e-6)
        assert line["high"] == pytest.approx(np.exp(-hazard / reach), rel=1e-6)


def test_the_baseline_is_the_survival_at_the_means_and_before_the_first_event_it_is_1() -> None:
    value = fitted()[0]
    at_means = predicted_survival(value)
    columns = ["time", "cumulative_hazard", "survival", "low", "high"]
    pd.testing.assert_frame_equal(at_means[columns], value["baseline"][columns])
    assert set(at_means["row"]) == {"means"}
    early = predicted_survival(value, times=[0, 1.9])
    assert (early[["survival", "low", "high"]] == 1).all(axis=None)
    assert (early["cumulative_hazard"] == 0).all()


def test_rows_may_be_a_map_or_a_list_of_maps_or_a_table_with_further_columns() -> None:
    value = fitted()[0]
    row = {"age": 50, "ward": "b"}
    forms: list[Any] = [row, [row], {"age": [50], "ward": ["b"]}, pd.DataFrame([{**row, "name": "x"}])]
    one, *others = [predicted_survival(value, form) for form in forms]
    for other in others:
        pd.testing.assert_frame_equal(one, other)
    assert predicted_survival(value, pd.DataFrame([row], index=["Ada"]))["row"].unique().tolist() == ["Ada"]
    assert predicted_survival(value, pd.DataFrame([row])[:0]).empty


@pytest.mark.parametrize(
    ("rows", "times", "words"),
    [
        ({"age": 50}, None, "rows lack 'ward': the model has the features age, ward"),
        ({"age": 50, "ward": "c"}, None, "rows: ward is 'c', the model knows 0, b"),
        ({"age": 50, "ward": None}, None, "rows: ward is None, the model knows 0, b"),
        ({"age": "old", "ward": 0}, None, "'age' does not hold numbers"),
        ({"age": [50, None], "ward": [0, 0]}, None, "age is missing in 1 of 2 rows"),
        ({"age": [50, 60], "ward": [0]}, None, "All arrays must be of the same length"),
        ("Ada", None, "rows are a DataFrame, a map column -> value or values, or a list of maps, not 'Ada'"),
        (None, [-1], "times are finite numbers of 0 or more"),
        (None, [float("nan")], "times are finite numbers of 0 or more"),
        (None, ["soon"], "times are numbers of 0 or more, not"),
    ],
)
def test_rows_that_the_model_can_not_use_are_refused_by_name(rows: Any, times: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        predicted_survival(fitted()[0], rows, times)


def test_without_a_shared_baseline_it_is_said_what_to_ask() -> None:
    with pytest.raises(SpecError, match=r'no node releases, .*baseline="shared".*KaplanMeier'):
        predicted_survival({"coefficients": None})
