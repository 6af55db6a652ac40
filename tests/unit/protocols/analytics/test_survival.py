"""Survival curves from counts on a grid, beside lifelines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test

from fedjob import KaplanMeier
from fedjob.common.errors import SpecError
from fedjob.protocols.analytics.survival.life_table import (
    curve_of,
    logrank_table,
    median_table,
    survival_table,
)


def people(seed: int, size: int, rate: float = 0.05) -> tuple[Any, Any]:
    """Return whole months, and whether they end with the event."""
    rng = np.random.default_rng(seed)
    ends, leaves = rng.exponential(1 / rate, size), rng.uniform(0, 60, size)
    return np.ceil(np.minimum(ends, leaves)), ends <= leaves


def counts(duration: Any, event: Any, times: Any) -> dict[str, list[int]]:
    places = np.searchsorted(times, duration)
    return {
        name: np.bincount(places[which], minlength=len(times)).tolist()
        for name, which in (("events", event), ("censored", ~event))
    }


TIMES = [float(month) for month in range(65)]
GROUPS = {"a": people(1, 120), "b": people(2, 90, 0.09), "c": people(3, 40, 0.03)}
COUNTS = {name: counts(*one, TIMES) for name, one in GROUPS.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_curve_intervals_and_median_are_those_of_lifelines(group: str) -> None:
    duration, event = GROUPS[group]
    fitted = KaplanMeierFitter().fit(duration, event)
    curve = curve_of(COUNTS[group])
    assert curve.survival == pytest.approx(fitted.survival_function_at_times(TIMES).to_numpy())
    bounds = fitted.confidence_interval_.reindex(TIMES, method="ffill").to_numpy()
    inside = (curve.survival > 0) & (curve.survival < 1)
    assert curve.low[inside] == pytest.approx(bounds[inside, 0])
    assert curve.high[inside] == pytest.approx(bounds[inside, 1])
    table = fitted.event_table.reindex(TIMES).fillna(0)
    assert curve.events.tolist() == table["observed"].tolist()
    assert curve.censored.tolist() == table["censored"].tolist()
    used = (curve.events + curve.censored) > 0
    assert curve.at_risk[used].tolist() == table["at_risk"][used].tolist()
    medians = median_table(["group"], TIMES, COUNTS).set_index("group")
    assert medians["median"][group] == fitted.median_survival_time_


@pytest.mark.filterwarnings("ignore:Starting with pandas")
@pytest.mark.parametrize("chosen", ["ab", "abc", "aa"])
def test_the_logrank_test_is_that_of_lifelines(chosen: str) -> None:
    parts = {f"{place}": GROUPS[name] for place, name in enumerate(chosen)}
    found = logrank_table({place: counts(*one, TIMES) for place, one in parts.items()}).iloc[0]
    duration, event = (np.concatenate([one[k] for one in parts.values()]) for k in range(2))
    labels = np.concatenate([[place] * len(one[0]) for place, one in parts.items()])
    exact = multivariate_logrank_test(duration, labels, event)
    assert found["statistic"] == pytest.approx(exact.test_statistic, abs=1e-9)
    assert found["p_value"] == pytest.approx(exact.p_value)
    assert found["degrees_of_freedom"] == len(chosen) - 1


def test_the_table_has_the_beginning_and_each_time_at_which_something_happens() -> None:
    frame = survival_table([], [0.0, 1.0, 2.0, 3.0], {"": {"events": [0, 2, 0, 1], "censored": [0, 0, 0, 3]}})
    assert frame["time"].tolist() == [0, 1, 3]
    assert frame["at_risk"].tolist() == [6, 6, 4]
    assert frame["survival"].tolist() == pytest.approx([1, 2 / 3, 1 / 2])


def test_where_all_or_none_have_the_event_there_is_no_interval() -> None:
    gone, none = (
        curve_of({"events": [2, 2], "censored": [0, 0]}),
        curve_of({"events": [0, 0], "censored": [1, 3]}),
    )
    assert (gone.survival[-1], gone.low[-1], gone.high[-1], gone.std_error[-1]) == (0, 0, 0, 0)
    assert none.survival.tolist() == none.low.tolist() == none.high.tolist() == [1, 1]
    medians = median_table([], [0.0, 1.0], {"": {"events": [0, 0], "censored": [1, 3]}})
    assert medians["median"].tolist() == [math.inf]
    test = logrank_table({"a": {"events": [0], "censored": [3]}, "b": {"events": [0], "censored": [2]}})
    assert math.isnan(test["p_value"][0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": [3, 2]}, "times ascend"),
        ({"times": [0, 2]}, "times ascend"),
        ({"times": [1, math.inf]}, "times ascend"),
        ({"bins": 1}, "2 to 5000"),
        ({"bins": 5001}, "2 to 5000"),
        ({"by": "died"}, "twice"),
        ({"event": "months"}, "twice"),
        ({"by": ["sex", "sex"]}, "twice"),
    ],
)
def test_what_is_no_question_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        KaplanMeier(**{"duration": "months", "event": "died", **changes})
