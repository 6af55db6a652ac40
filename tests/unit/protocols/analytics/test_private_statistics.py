"""Statistics with differential privacy: what one record changes, noise without bias, and questions that are refused."""

from __future__ import annotations

import datetime
import math
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedjob import Protect, RecordDP, SpecError, Statistics
from fedjob.common.errors import MessageError, NodeFailure
from fedjob.data.column_types import settled
from fedjob.data.loader import open_dataset
from fedjob.privacy.dp.sum_terms import SumTerms
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.analytics.private_statistics.answer import NOISED, VARIANCES, noisy_contribution
from fedjob.protocols.analytics.private_statistics.exact_sums import exact_sums
from fedjob.protocols.analytics.private_statistics.questions import (
    GRID,
    SENSITIVITIES,
    num_groups,
    questions_of,
    terms_of,
)
from fedjob.protocols.analytics.private_statistics.report import noisy_report
from fedjob.protocols.base import Local

EVERYTHING = Statistics(
    count=["name", "x"],
    missing=["sex"],
    mean=["x", "y"],
    std=["x"],
    variance=["y"],
    histogram={"x": (-1.0, 0.0, 2.5)},
    quantiles={"y": (0.1, 0.5)},
    categories=["sex", "name"],
    table=["sex", "name"],
    covariance=["x", "y"],
    correlation=["y", "x", "z"],
    by=["sex"],
    bounds={"x": (-2, 3), "y": (0, 1e6), "z": (-1e-9, 1e-9)},
    levels={"sex": [0, 1, "other"], "name": ["ada", "01", 1.5, "inf", "2020-01-01"]},
)

VALUES = st.one_of(
    st.none(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.sampled_from(
        ["ada", "0", "1", "1.0", "01", "1.5", "True", "false", "inf", "-inf", "1e3", "1E3", "x,y", " 1"]
    ),
    st.text(max_size=3),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-3, max_value=3),
    st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)),
    st.sampled_from([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 3), "2020-01-01", b"1"]),
)
RECORDS = st.tuples(VALUES, VALUES, VALUES, VALUES, VALUES)
COLUMNS = ["name", "x", "y", "z", "sex"]


def typed(records: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Return a table whose columns have the types that all their values together give them, as readers make it."""
    return pd.DataFrame(
        {
            name: settled(pd.Series([record[place] for record in records], dtype=object))
            for place, name in enumerate(COLUMNS)
        }
    )


def changed(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that a further record changes what noise is added to by what the noise is for."""
    for measures in (EVERYTHING, replace(EVERYTHING, by=())):
        questions = questions_of(measures)
        ones, others = (exact_sums(measures, questions, frame) for frame in (before, after))
        for question, one, other in zip(questions, ones, others, strict=True):
            difference = np.abs(np.array(one, dtype=object) - np.array(other, dtype=object))
            assert len(difference) == num_groups(measures) * question.bins
            assert (difference > 0).sum() <= 1, question
            assert difference.max() <= question.sensitivity, question


@settings(max_examples=60, deadline=None)
@example(records=[(datetime.date(2020, 1, 1),) * 5] * 2, record=("x",) * 5, data=None)
@example(records=[(Decimal("1.50"),) * 5] * 2, record=("x",) * 5, data=None)
@example(records=[(True,) * 5] * 2, record=(3,) * 5, data=None)
@example(records=[(True,) * 5] * 2, record=("x",) * 5, data=None)
@example(records=[(1,) * 5] * 2, record=(None,) * 5, data=None)
@given(records=st.lists(RECORDS, max_size=6), record=RECORDS, data=st.data())
def test_one_record_changes_one_number_of_a_sum_by_its_sensitivity_at_most(
    records: list[tuple[Any, ...]], record: tuple[Any, ...], data: st.DataObject | None
) -> None:
    place = 0 if data is None else data.draw(st.integers(0, len(records)))
    changed(typed(records), typed([*records[:place], record, *records[place:]]))


@settings(max_examples=20, deadline=None)
@given(
    cells=st.lists(
        st.sampled_from(["1", "1.0", "0", "0.0", "1.5", "", "true", "True", "01"]), min_size=1, max_size=4
    ),
    odd=st.sampled_from(["x", "01", "1.5", "1E5", "", "-3", "inf"]),
)
@example(cells=["2020-01-01", "2020-01-01"], odd="x")
@example(cells=["1.0", "1.0", "0.0"], odd="x")
@example(cells=["1", "0", "1"], odd="1.5")
@example(cells=["true", "True", "false"], odd="x")
@example(cells=["12345678901234567890", "1"], odd="x")
@example(cells=["1", "1", "1"], odd="01")
def test_a_record_that_turns_a_column_of_a_file_into_text_changes_no_more(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str], odd: str
) -> None:
    folder = tmp_path_factory.mktemp("files")
    tables = []
    for name, column in (("before", cells), ("after", [*cells, odd])):
        lines = [",".join(COLUMNS), *(",".join(["ada", cell, cell, cell, cell]) for cell in column)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        tables.append(open_dataset({"path": str(folder / f"{name}.csv")}).frame())
    changed(*tables)


def test_every_kind_of_sum_is_exact_before_its_noise() -> None:
    frame = pd.DataFrame(
        {
            "x": [0.0, 1.0, 2.0, 10.0, -10.0, None],
            "y": [4.0, 0.0, 8.0, 8.0, 0.0, 2.0],
            "sex": ["f", "m", "m", "f", None, "q"],
        }
    )
    measures = Statistics(
        count="x", mean="x", std="x", histogram={"x": (0, 1, 2)}, quantiles="y", categories="sex", table=["sex", "sick"],
        covariance=["x", "y"], bounds={"x": (-2, 2), "y": (0, 8)}, levels={"sex": ["f", "m"], "sick": [0, 1]},
    )  # fmt: skip
    frame["sick"] = [True, False, True, True, False, False]
    questions = questions_of(measures)
    found = {
        (one.kind, one.columns, one.level): np.array(numbers) / one.sensitivity
        for one, numbers in zip(questions, exact_sums(measures, questions, frame), strict=True)
    }
    assert found["present", ("x",), 0].tolist() == [5, 1]
    assert found["sum", ("x",), 0].tolist() == [0 + 0.5 + 1 + 1 - 1]
    assert found["squares", ("x",), 0].tolist() == [0 + 0.25 + 1 + 1 + 1]
    assert found["bins", ("x",), 0].tolist() == [1, 1, 2, 1]
    assert found["categories", ("sex",), 0].tolist() == [2, 2]
    assert found["table", ("sex", "sick"), 0].tolist() == [0, 2, 1, 1]
    assert found["tree", ("y",), 1].tolist() == [3, 3]
    assert found["tree", ("y",), 2].tolist() == [2, 1, 1, 2]
    assert found["complete", ("x", "y"), 0].tolist() == [5]
    assert found["linear", ("y",), 0].tolist() == [0 - 1 + 1 + 1 - 1]
    assert found["product", ("x", "y"), 0].tolist() == [0 - 0.5 + 1 + 1 + 1]


# --- noise ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"age": rng.normal(50, 12, 3000).round(2), "sex": rng.integers(0, 2, 3000)})
    frame["pulse"] = (70 + 0.4 * (frame["age"] - 50) + rng.normal(0, 6, 3000)).round(1)
    frame.loc[::10, "pulse"] = None
    path = tmp_path_factory.mktemp("people") / "people.csv"
    frame.to_csv(path, index=False)
    return path, frame


def local(path: Path, terms: SumTerms | None, **limits: Any) -> Local:
    return Local(
        node="a",
        round=1,
        seed=0,
        plan=None,
        data=open_dataset({"path": str(path)}),
        args=None,
        state={},
        emit=lambda type_, data: None,
        progress=lambda done, total: None,
        scratch=path.parent,
        limits=limits,
        noise={} if terms is None else terms.to_plain(),
    )


PEOPLE = Statistics(
    count=["age", "pulse"],
    missing="pulse",
    mean=["age", "pulse"],
    std="age",
    histogram={"age": (30, 50, 70)},
    quantiles={"age": (0.25, 0.5, 0.9)},
    categories="sex",
    covariance=["age", "pulse"],
    correlation=["age", "pulse"],
    bounds={"age": (0, 100), "pulse": (30, 110)},
    levels={"sex": [0, 1]},
)


def test_statistics_with_noise_are_right_on_average_and_as_far_off_as_they_say(
    people: tuple[Path, pd.DataFrame],
) -> None:
    path, frame = people
    terms = terms_of(PEOPLE, RecordDP(epsilon=8.0, delta=1e-6), num_rows=len(frame))
    here = local(path, terms)
    draws = [
        noisy_contribution(PEOPLE, here, asked=True, source=random.Random(seed).randbytes).value
        for seed in range(40)
    ]
    reports = [noisy_report(PEOPLE, draw[NOISED], draw[VARIANCES]) for draw in draws]
    complete = frame.dropna()
    expected: list[tuple[str, Any, str, str, float]] = [
        *[
            ("columns", {"column": name}, "count", "count_noise", frame[name].count())
            for name in ("age", "pulse")
        ],
        *[
            ("columns", {"column": name}, "mean", "mean_noise", frame[name].mean())
            for name in ("age", "pulse")
        ],
        ("columns", {"column": "pulse"}, "missing", "missing_noise", 300),
        ("columns", {"column": "age"}, "std", "std_noise", frame["age"].std()),
        ("histogram", {"low": 50.0}, "count", "noise", frame["age"].between(50, 70).sum()),
        ("categories", {"category": 1}, "count", "noise", (frame["sex"] == 1).sum()),
        ("covariance", {"column": "age"}, "pulse", "noise", complete["age"].cov(complete["pulse"])),
        ("correlation", {"column": "age"}, "pulse", "noise", complete["age"].corr(complete["pulse"])),
    ]
    for table, where, name, noise, value in expected:
        rows = [report[table] for report in reports]
        for column, wanted in where.items():
            rows = [row[row[column] == wanted] for row in rows]
        found = np.array([row[name].item() for row in rows], dtype=float)
        deviation = np.mean([row[noise].item() for row in rows])
        assert abs(found.mean() - value) < 4.5 * deviation / math.sqrt(len(found)) + 1e-3 * abs(value), (
            table,
            name,
        )
        assert found.std() < 1.4 * deviation, (table, name)
        if table not in ("covariance", "correlation"):  # there it is that of the row's noisiest number
            assert found.std() > 0.65 * deviation, (table, name)
    for row in range(3):
        fraction = PEOPLE.quantiles["age"][row]
        ranges = [report["quantiles"].iloc[row] for report in reports]
        exact = float(frame["age"].quantile(fraction))
        assert np.mean([one["low"] <= exact <= one["high"] for one in ranges]) > 0.85
        assert abs(np.mean([one["value"] for one in ranges]) - exact) < 1.0


def test_the_noise_of_every_task_is_new(people: tuple[Path, pd.DataFrame]) -> None:
    path, frame = people
    terms = terms_of(PEOPLE, RecordDP(epsilon=1.0, delta=1e-6), num_rows=len(frame))
    one, other = (noisy_contribution(PEOPLE, local(path, terms), asked=True) for _ in range(2))
    assert one.weight == other.weight == len(frame)
    assert one.value[NOISED] != other.value[NOISED]
    assert one.value[VARIANCES] == [terms.variance(size) / size**2 for size in SENSITIVITIES]


def test_what_follows_from_noise_alone_is_possible_or_no_number() -> None:
    rng = np.random.default_rng(1)
    for _ in range(12):
        sums = [
            rng.normal(0, 40, num_groups(EVERYTHING) * one.bins).tolist() for one in questions_of(EVERYTHING)
        ]
        report = noisy_report(EVERYTHING, sums, [1600.0, 1600.0, 1600.0])
        for name in ("histogram", "categories", "table"):
            assert (report[name]["count"] >= 0).all()
            assert (report[name]["noise"] == 40).all()
        columns = report["columns"]
        for row in columns.dropna(subset=["mean"]).to_dict("records"):
            low, high = EVERYTHING.bounds[row["column"]]
            assert low <= row["mean"] <= high
            assert not row["mean_noise"] < 0
        assert not (columns["variance"] < 0).any()
        quantiles = report["quantiles"].dropna()
        assert (quantiles["low"] <= quantiles["value"]).all()
        assert (quantiles["value"] <= quantiles["high"]).all()
        assert quantiles["value"].between(0, 1e6).all()
        square = report["correlation"][["y", "x", "z"]].to_numpy()
        assert (np.isnan(square) | (np.abs(square) <= 1)).all()


def test_a_mean_of_no_rows_is_no_number() -> None:
    measures = Statistics(
        mean="x", std="x", quantiles="x", covariance=["x", "y"], bounds={"x": (0, 1), "y": (0, 1)}
    )
    sums = [[0.0] * one.bins for one in questions_of(measures)]
    report = noisy_report(measures, sums, [1.0, 1.0, 1.0])
    assert report["columns"][["mean", "mean_noise", "std", "std_noise"]].isna().all(axis=None)
    assert report["quantiles"][["value", "low", "high"]].isna().all(axis=None)
    assert report["covariance"][["x", "y", "noise"]].isna().all(axis=None)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"min": "age"}, r"min and max of 'age' are values of single records.*quantiles=\{'age': \[0.05, 0.95\]\}"),
        ({"max": ["age"], "count": "age"}, "values of single records"),
        ({"mean": "age"}, r"'age' needs bounds=\{'age': \(low, high\)\}, from what is known"),
        ({"quantiles": "age"}, "needs bounds="),
        ({"correlation": ["age", "x"], "bounds": {"age": (0, 1)}}, r"'x' needs bounds="),
        ({"categories": "sex"}, r"'sex' needs levels=\{'sex': \[...\]\}, the categories to count"),
        ({"table": ["sex", "cp"], "levels": {"sex": [0, 1]}}, "'cp' needs levels="),
        ({"count": "age", "by": "sex"}, "'sex' needs levels="),
        ({"count": "age", "bounds": {"age": (0, 120)}}, "bounds names 'age', of which nothing is asked"),
        ({"count": "age", "levels": {"sex": [1]}}, "levels names 'sex', of which nothing is asked"),
        (
            {
                "covariance": list(map(str, range(5000))),
                "bounds": {str(k): (0, 1) for k in range(5000)},
            },
            "more than 10,000 numbers",
        ),
        (
            {"table": ["a", "b", "c"], "levels": dict.fromkeys("abc", range(40))},
            "more than 10,000 numbers with noise: give fewer levels or columns",
        ),
    ],
)  # fmt: skip
def test_what_has_no_private_form_is_refused_with_what_to_ask_instead(
    fields: dict[str, Any], expected: str
) -> None:
    protect = Protect(dp=RecordDP(epsilon=1.0, delta=1e-6))
    with pytest.raises(SpecError, match=expected):
        Statistics(**fields).check_protection(protect)


@pytest.mark.parametrize(
    "fields",
    [
        {"bounds": {"age": (1, 1)}},
        {"bounds": {"age": (2, 1)}},
        {"bounds": {"age": (0, math.inf)}},
        {"bounds": {"age": (math.nan, 1)}},
        {"bounds": {"age": (-1.7e308, 1.7e308)}},
        {"bounds": {"age": 3}},
        {"bounds": {"age": (1, 2, 3)}},
        {"bounds": [("age", 0, 1)]},
        {"levels": {"sex": []}},
        {"levels": {"sex": "mf"}},
        {"levels": {"sex": [1, 1.0]}},
        {"levels": {"sex": [True, "1"]}},
        {"levels": {"sex": [None, "a"]}},
        {"levels": {"sex": [["a"], "b"]}},
        {"levels": ["sex"]},
        {"levels": {"sex": list(range(1001))}},
    ],
)
def test_bounds_and_levels_of_another_form_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^(bounds|levels)"):
        Statistics(count="age", **fields)


def test_categories_of_a_job_file_are_those_of_python() -> None:
    plain = {"categories": ["sex"], "levels": {"sex": [0, 1.0, True, "m"]}}
    with pytest.raises(MessageError, match="has a category twice"):
        PROTOCOLS.build("statistics", plain)
    plain["levels"] = {"sex": [0, 1.0, "m"]}
    found = PROTOCOLS.build("statistics", plain)
    assert found == Statistics(categories="sex", levels={"sex": ["0", 1, "m"]})
    assert PROTOCOLS.build(*PROTOCOLS.config_of(found)) == found


@pytest.mark.parametrize("fields", [{"bounds": {"age": (0, 1)}}, {"levels": {"sex": [0, 1]}}])
def test_bounds_and_levels_without_differential_privacy_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is for differential privacy, and the job has none"):
        Statistics(count="age", **fields).check_protection(Protect())
    Statistics(count="age").check_protection(Protect())


def test_a_node_answers_neither_exactly_with_a_budget_nor_with_noise_of_other_sums(
    people: tuple[Path, pd.DataFrame],
) -> None:
    path, frame = people
    terms = terms_of(PEOPLE, RecordDP(epsilon=1.0, delta=1e-6), num_rows=len(frame))
    with pytest.raises(NodeFailure, match="this task has no terms of its noise"):
        noisy_contribution(PEOPLE, local(path, None), asked=True)
    with pytest.raises(NodeFailure, match="this task asks for exact numbers"):
        noisy_contribution(PEOPLE, local(path, terms), asked=False)
    fewer = Statistics(count="age")
    with pytest.raises(
        NodeFailure, match=rf"the noise is for {terms.number} sums, and these statistics are 1"
    ):
        noisy_contribution(fewer, local(path, terms), asked=True)
    with pytest.raises(NodeFailure, match="there is no column 'weight'"):
        noisy_contribution(
            Statistics(count="weight"),
            local(path, terms_of(fewer, RecordDP(epsilon=1.0, delta=1e-6), num_rows=3000)),
            asked=True,
        )


def test_an_owners_minimum_of_rows_is_that_of_the_dataset(people: tuple[Path, pd.DataFrame]) -> None:
    path, frame = people
    terms = terms_of(PEOPLE, RecordDP(epsilon=1.0, delta=1e-6), num_rows=len(frame))
    assert noisy_contribution(PEOPLE, local(path, terms, min_rows=3000), asked=True).weight == 3000
    with pytest.raises(NodeFailure, match="3000 rows, fewer than the owner's minimum of 3001"):
        noisy_contribution(PEOPLE, local(path, terms, min_rows=3001), asked=True)


def test_the_middle_of_the_bounds_adds_nothing_to_a_sum() -> None:
    measures = Statistics(mean="x", bounds={"x": (-1e300, 1e300)})
    questions = questions_of(measures)
    sums = exact_sums(measures, questions, pd.DataFrame({"x": [0.0, 1e300, -1e300, math.inf]}))
    assert sums[1] == [GRID]
