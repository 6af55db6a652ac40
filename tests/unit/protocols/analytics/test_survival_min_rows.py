"""Survival curves of a node whose owner sets a minimum of rows: no count, and no difference of counts, is about fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import KaplanMeier
from fedjob.common.errors import NodeFailure
from fedjob.privacy.releases import Releases
from fedjob.protocols.analytics.survival.kaplan_meier import COUNTS, POWERS, RANGE
from fedjob.protocols.analytics.survival.life_table import curve_of
from fedjob.protocols.analytics.table import AuditedTable

MIN_ROWS = 7


def table(seed: int, size: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "months": np.ceil(rng.exponential(20, size)),
            "died": rng.integers(0, 2, size).astype(float),
            "sex": rng.choice(["f", "m"], size),
            "ward": rng.choice(["a", "b", "c"], size, p=[0.06, 0.34, 0.6]),
        }
    )
    frame.loc[rng.random(size) < 0.06, "months"] = None
    frame.loc[rng.random(size) < 0.04, "died"] = None
    return frame


def audited(frame: pd.DataFrame, min_rows: int = MIN_ROWS) -> AuditedTable:
    releases = Releases.fresh(min_rows, len(frame))
    return AuditedTable("node", frame, len(frame), min_rows, releases.admit)


def answer(asked: KaplanMeier, node: AuditedTable, times: list[float]) -> dict[str, Any]:
    duration, event = asked._columns(node)
    return asked._counts(node, duration, event, times)


@pytest.mark.parametrize("seed", range(12))
def test_the_sets_of_rows_that_many_answers_tell_of_cut_no_small_piece_off(seed: int) -> None:
    frame, rng = table(seed), np.random.default_rng(seed)
    node, told = audited(frame), []
    for _ in range(6):
        by = [name for name in ("sex", "ward") if rng.random() < 0.35]
        end = float(rng.integers(20, 90))
        times = [0.0, *np.unique(rng.uniform(0, end, int(rng.integers(2, 40)))).tolist(), end]
        found = answer(KaplanMeier(duration="months", event="died", by=by), node, times)
        for group, counts in found["groups"].items():
            here = frame["months"].notna() & frame["died"].notna()
            for name, value in zip(by, group.split("\x1f"), strict=True) if by else ():
                here &= frame[name] == value
            died = here & (frame["died"] == 1) & (frame["months"] <= end)
            for which, series in ((died, counts["events"]), (here & ~died, counts["censored"])):
                assert sum(series) == which.sum()
                seen = 0
                for place, more in enumerate(series):
                    seen += more
                    last = place == len(times) - 1
                    within = which if last else which & (frame["months"] <= times[place])
                    assert seen <= within.sum()  # a count waits for a later time, and never comes too early
                    if more:
                        assert seen == within.sum()
                        told.append(within.to_numpy())
    pieces = pd.DataFrame(np.array(told).T).value_counts()
    missing = (frame["months"].isna() | frame["died"].isna()).sum()
    outside = tuple([False] * len(told))
    assert all(size >= MIN_ROWS for piece, size in pieces.items() if piece != outside)
    assert pieces.get(outside, 0) - missing in (0, *range(MIN_ROWS, len(frame)))


def test_with_joined_times_the_curve_is_that_of_times_rounded_up_and_near_the_exact_one() -> None:
    frame = table(3, 600).assign(died=1.0)
    frame = frame.dropna()
    times = [float(month) for month in range(200)]
    asked = KaplanMeier(duration="months", event="died")
    plain, found = answer(asked, audited(frame, 0), times), answer(asked, audited(frame), times)
    assert plain["joined"] == plain["withheld"] == found["withheld"] == 0
    assert found["joined"] > 0
    exact, near = curve_of(plain["groups"][""]), curve_of(found["groups"][""])
    assert (near.survival >= exact.survival - 1e-12).all()
    assert np.abs(near.survival - exact.survival).max() <= MIN_ROWS * 2 / len(frame)


def test_a_group_of_few_events_is_withheld_and_counted() -> None:
    frame = pd.DataFrame(
        {
            "months": np.arange(1.0, 61),
            "died": [1.0] * 3 + [0.0] * 17 + [1.0] * 20 + [0.0] * 20,
            "arm": [0] * 20 + [1] * 40,
        }
    )
    found = answer(KaplanMeier(duration="months", event="died", by="arm"), audited(frame), [0.0, 30.0, 60.0])
    assert list(found["groups"]) == ["1"]
    assert found["withheld"] == 1
    again = answer(KaplanMeier(duration="months", event="died"), audited(frame), [0.0, 2.0, 60.0])
    assert again["groups"][""]["events"] == [0, 0, 23]


def test_the_range_tells_nothing_of_the_few_longest_times() -> None:
    frame = pd.DataFrame({"months": [*np.arange(1.0, 21), 1000.0, 5000.0], "died": 1.0})
    asked = KaplanMeier(duration="months", event="died")
    ends = {}
    for least in (0, 7):
        node = audited(frame, least)
        reached = asked._range(node, asked._columns(node)[0]).value["reached"]
        ends[least] = POWERS[reached.index(1)]
    assert ends == {0: 8192.0, 7: 16.0}
    few = audited(frame.head(3))
    with pytest.raises(NodeFailure, match="fewer rows than the owner's minimum"):
        asked._range(few, asked._columns(few)[0])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("months", -1.0, "negative times"),
        ("died", 2.0, "other numbers than 0 and 1"),
        ("months", "x", "numbers"),
    ],
)
def test_columns_that_are_no_times_and_events_are_refused(column: str, value: Any, words: str) -> None:
    frame = table(1).astype({column: object})
    frame.loc[5, column] = value
    frame.loc[5, "died" if column == "months" else "months"] = 1.0
    if not isinstance(value, str):
        frame[column] = frame[column].astype(float)
    with pytest.raises(NodeFailure, match=words):
        KaplanMeier(duration="months", event="died")._columns(audited(frame))


def test_steps_send_the_grid_alone() -> None:
    asked = KaplanMeier(duration="months", event="died")
    assert (dict(asked.inputs_of(RANGE)), list(asked.inputs_of(COUNTS))) == ({}, ["times"])
