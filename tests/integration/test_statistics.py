"""Statistics of four hospitals: those of the pooled rows, and nothing about fewer rows than an owner allows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import (
    Filter,
    Impute,
    Items,
    Job,
    JobFailed,
    LinearRegression,
    Outliers,
    Quorum,
    Select,
    Statistics,
)
from fedjob.common.errors import SpecError
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.researcher.jobs.session import Session
from tests.data import heart_data, pooled_hearts
from tests.integration.nodes import Federation, Node
from tests.integration.scripted import open_session

ASKED = {
    "count": ["age", "chol", "thal"],
    "missing": ["chol", "thal"],
    "mean": ["age", "chol"],
    "variance": ["chol"],
    "std": ["age", "chol"],
    "min": ["age"],
    "max": ["oldpeak"],
    "quantiles": {"age": [0.25, 0.5], "chol": [0.1, 0.9], "oldpeak": [0, 0.5, 1]},
    "histogram": {"age": [30, 40, 50, 60]},
    "categories": ["cp"],
    "covariance": ["age", "chol", "trestbps"],
    "correlation": ["age", "chol", "trestbps"],
    "table": ["cp", "exang"],
}


def locally(protocol: Any, data: Any, home: Path, **more: Any) -> Any:
    return Job(protocol, data=data, nodes="local", home=home, seed=1, **more).run(progress=False).value


def write(folder: Path, **tables: dict[str, list[Any]]) -> dict[str, str]:
    """Write a csv file for each node."""
    for node, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"{node}.csv", index=False)
    return {node: str(folder / f"{node}.csv") for node in tables}


def measures(frame: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Check a table of measures against pooled rows."""
    for row in frame.to_dict("records"):
        column = rows[row["column"]]
        expected = {
            "count": column.count(),
            "missing": column.isna().sum(),
            "mean": column.mean(),
            "variance": column.var(),
            "std": column.std(),
            "min": column.min(),
            "max": column.max(),
        }
        for name in ASKED.keys() & expected.keys():
            if row["column"] in ASKED[name]:
                assert row[name] == pytest.approx(expected[name], rel=1e-12)


@pytest.mark.parametrize("by", [[], ["sex"], ["sex", "fbs"]], ids=["all", "in groups", "in groups of two"])
def test_statistics_are_those_of_the_pooled_rows(tmp_path: Path, by: list[str]) -> None:
    found = locally(Statistics(by=by, **ASKED), heart_data(), tmp_path)
    pooled = pooled_hearts()
    groups = [((), pooled)] if not by else [(key, rows) for key, rows in pooled.groupby(by)]
    assert len(found["rows"]) == len(groups)
    for key, rows in groups:
        own = {
            name: _of_group(table, by, key)
            for name, table in found.items()
            if isinstance(table, pd.DataFrame) and name not in ("coverage", "present")
        }
        assert own["rows"]["rows"].tolist() == [len(rows)]
        assert len(own["columns"]) == 4
        measures(own["columns"], rows)
        for row in own["quantiles"].to_dict("records"):
            assert row["value"] == pytest.approx(rows[row["column"]].quantile(row["fraction"]), rel=1e-12)
            assert 0 < row["error"] <= 1e-9 * max(abs(row["value"]), 1e-9)
        counts, _ = np.histogram(rows["age"], ASKED["histogram"]["age"])
        bins = own["histogram"]
        assert bins[np.isfinite(bins.low) & np.isfinite(bins.high)]["count"].tolist() == counts.tolist()
        assert bins["count"].sum() == len(rows)
        cp = own["categories"].set_index("category")["count"]
        assert cp.to_dict() == rows["cp"].value_counts().to_dict()
        crossed = own["table"].pivot(index="cp", columns="exang", values="count").fillna(0)
        np.testing.assert_array_equal(crossed, pd.crosstab(rows["cp"], rows["exang"]))
        complete = rows[ASKED["covariance"]].dropna()
        names = ASKED["covariance"]
        np.testing.assert_allclose(own["covariance"][names], complete.cov(), rtol=1e-10)
        np.testing.assert_allclose(own["correlation"][names], complete.corr(), rtol=1e-10)
        assert own["covariance"]["count"].tolist() == [len(complete)] * 3
    assert found["withheld"] == dict.fromkeys(heart_data(), 0)


def _of_group(table: pd.DataFrame, by: list[str], key: Any) -> pd.DataFrame:
    for name, value in zip(by, key, strict=True):
        table = table[table[name] == value]
    return table


def test_quantiles_of_numbers_of_any_size_are_within_the_stated_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    parts = {name: rng.standard_cauchy(200) * 10.0 ** rng.integers(-8, 8, 200) for name in "ab"}
    data = write(tmp_path, **{name: {"x": part.tolist()} for name, part in parts.items()})
    fractions = [0.0, 0.05, 0.5, 0.77, 1.0]
    found = locally(Statistics(quantiles={"x": fractions}, precision=1e-4), data, tmp_path)["quantiles"]
    exact = np.quantile(np.concatenate(list(parts.values())), fractions)
    assert (np.abs(found["value"] - exact) <= found["error"]).all()
    assert (found["error"] <= 1e-4 * np.abs(exact) * 1.01).all()


def test_a_large_mean_cancels_nothing(tmp_path: Path) -> None:
    values = {"a": [1e9 + k for k in range(5)], "b": [1e9 + 7.5, 1e9 + 9]}
    found = locally(
        Statistics(variance="x"), write(tmp_path, a={"x": values["a"]}, b={"x": values["b"]}), tmp_path
    )
    assert found["columns"]["variance"][0] == pytest.approx(
        np.var(values["a"] + values["b"], ddof=1), rel=1e-12
    )


# --- what hospitals differ in --------------------------------------------------------------------


def test_a_category_of_one_node_a_node_with_one_row_and_a_column_without_values(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        a={"x": [1.0, 2.0, 3.0], "kind": ["p", "q", "q"], "empty": [None] * 3, "code": [1, 2, 1]},
        b={"x": [6.0], "kind": ["r"], "empty": [None], "code": [1.0]},
        c={"x": [None, None], "kind": [None, "p"], "empty": [None] * 2, "code": [None, 2.0]},
    )
    asked = Statistics(
        mean=["x", "empty"],
        std=["x", "empty"],
        missing=["x", "empty"],
        count="empty",
        categories=["kind", "code"],
    )
    found = locally(asked, data, tmp_path)
    columns = found["columns"].set_index("column")
    assert columns.loc["x", "mean"] == 3.0
    assert columns.loc["x", "std"] == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert columns.loc["empty", ["count", "missing"]].tolist() == [0, 6]
    assert np.isnan(columns.loc["empty", "mean"])
    kinds = found["categories"].set_index(["column", "category"])["count"].to_dict()
    assert kinds == {("kind", "p"): 2, ("kind", "q"): 2, ("kind", "r"): 1, ("code", "1"): 3, ("code", "2"): 2}
    grouped = locally(Statistics(mean="x", by="kind"), data, tmp_path)
    assert grouped["columns"].set_index("kind")["mean"].to_dict() == {"p": 1.0, "q": 2.5, "r": 6.0}
    assert found["nodes"] == {"a": 3, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Statistics(mean="height"), "no column 'height'"),
        (Statistics(mean="age", by="height"), "no column 'height'"),
        (Statistics(mean="name"), "'name' does not hold numbers"),
        (Statistics(mean="age", histogram={"inf": [0, 1]}), "'inf' holds infinite numbers"),
    ],
    ids=["missing", "missing group", "texts", "infinite"],
)
def test_a_column_that_does_not_fit_at_one_node_is_named(
    tmp_path: Path, asked: Statistics, says: str
) -> None:
    fitting = {"age": [1, 2], "height": [3, 4], "name": [5, 6], "inf": [0, 0]}
    odd = {"age": [1, 2], "name": ["ada", "bea"], "inf": [1, float("inf")]}
    data = write(tmp_path, fits=fitting, odd=odd)
    job = Job(asked, data=data, nodes="local", home=tmp_path, quorum=Quorum(min_nodes=1))
    job.run(progress=False)
    assert job.result.value["nodes"] == {"fits": 2}  # the others count; who does not is told
    for shown in (job.result, job):
        assert "1 of 2 nodes, 2 of 4 rows; left out: odd (columns: " in str(shown)
        assert says in str(shown)
    with pytest.raises((JobFailed, SpecError), match="To go on without odd") as failed:
        Job(asked, data=data, nodes="local", home=tmp_path).run(progress=False)
    assert says.split("'")[1] in str(failed.value)  # the column
    (reason,) = [event.body["reason"] for event in job.events() if event.type == "error"]
    assert reason.startswith("columns: ")
    assert says in reason
    assert "ada" not in reason


@pytest.mark.feature("TB-04")
def test_outliers_are_those_of_the_pooled_rows(tmp_path: Path) -> None:
    pooled = pooled_hearts()
    named = Job("outliers", data=heart_data(), nodes="local", home=tmp_path).run(progress=False).value
    chosen = locally(Outliers(columns=["chol", "oldpeak"], whisker=1.0, z=2), heart_data(), tmp_path)
    for found, whisker, z in ((named, 1.5, 3), (chosen, 1.0, 2)):
        for row in found["columns"].to_dict("records"):
            values = pooled[row["column"]].dropna()
            first, third = values.quantile(0.25), values.quantile(0.75)
            low, high = first - whisker * (third - first), third + whisker * (third - first)
            assert [row["count"], row["iqr_below"], row["iqr_above"]] == [
                len(values),
                (values < low).sum(),
                (values > high).sum(),
            ]
            scores = (values - values.mean()) / values.std()
            assert [row["z_below"], row["z_above"]] == [(scores < -z).sum(), (scores > z).sum()]
            expected = [values.mean(), values.std(), first, third, low, high]
            told = [row[key] for key in ("mean", "std", "q1", "q3", "iqr_low", "iqr_high")]
            np.testing.assert_allclose(told, expected, rtol=1e-9, atol=1e-12)
    numbers = {name for name in pooled.select_dtypes("number") if name != "hospital"}
    assert set(named["columns"]["column"]) == numbers
    assert chosen["coverage"]["used"].sum() == len(pooled)


def test_outliers_of_columns_without_spread_and_of_odd_arguments(tmp_path: Path) -> None:
    data = write(
        tmp_path, a={"same": [2, 2, 2], "few": [1, None, None]}, b={"same": [2, 2, 9], "few": [None] * 3}
    )
    (same,) = locally(Outliers(columns="same"), data, tmp_path)["columns"].to_dict("records")
    assert (same["iqr_below"], same["iqr_above"], same["iqr_low"]) == (0, 1, 2)
    (few,) = locally(Outliers(columns="few"), data, tmp_path)["columns"].to_dict("records")
    assert (few["count"], few["iqr_above"], few["z_above"]) == (1, 0, 0)
    for odd in ({"whisker": 0}, {"z": float("nan")}, {"columns": ["a", "a"]}):
        with pytest.raises(SpecError):
            Outliers(**odd)
    with pytest.raises(SpecError, match="no column 'nope'"):
        locally(Outliers(columns="nope"), data, tmp_path)


def test_rows_that_do_not_count_are_shown_with_every_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    holes = {"age": [30, 40, 50, 60, 70, 80], "ca": [None, 2, 3, None, 4, 7], "sick": [1, 2, 5, 2, 3, 4]}
    data = write(tmp_path, full={"age": [35, 45], "ca": [1, 2], "sick": [0, 3]}, holes=holes)
    asked = LinearRegression(target="sick", features=["age", "ca"])
    job = Job(asked, data=data, nodes="local", home=tmp_path, name="ca", preprocess=[Filter("age", ">", 40)])
    found = job.run(progress=False)
    line = (
        "2 of 2 nodes, 4 of 8 rows; 3 rows left out by preprocessing: full 1 of 2, holes 2 of 6; "
        "1 rows left out because a value is missing or withheld: holes 1 of 6"
    )
    for shown in (repr(found), found._repr_html_(), str(job), repr(job), job._repr_html_(), caplog.text):
        assert line in shown
    assert found.value["coverage"].to_dict("list") == {
        "node": ["full", "holes"],
        "rows": [2, 6],
        "filtered": [1, 2],
        "incomplete": [0, 1],
        "used": [1, 3],
    }
    means = Job(Statistics(mean=["age", "ca"]), data=data, nodes="local", home=tmp_path).run(progress=True)
    assert means.about == "2 of 2 nodes, 8 of 8 rows; ca has 6 of 8 values: holes 4 of 6"
    assert means.about in " ".join(capsys.readouterr().err.split())


def test_a_result_about_everything_says_so_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write(tmp_path, a={"age": [1, 2]}, b={"age": [3]})
    found = Job(Statistics(mean="age"), data=data, nodes="local", home=tmp_path / "lab").run(progress=False)
    assert found.complete
    assert found.about == "2 of 2 nodes, 3 of 3 rows"
    assert caplog.text == ""


def test_a_column_that_no_node_has_is_named_before_anybody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match="nobody was asked yet: a: there is no column 'weight'; there are age"
    ):
        locally(Statistics(mean="weight"), write(tmp_path, a={"age": [1]}), tmp_path)


def test_an_identifier_is_no_category(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="more than 1000 different values"):
        locally(Statistics(categories="id"), write(tmp_path, a={"id": list(range(1001))}), tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"by": "sex"},
        {"mean": [""]},
        {"mean": ["age", "age"]},
        {"covariance": "age"},
        {"table": ["sex"]},
        {"histogram": {"age": [3]}},
        {"histogram": {"age": [3, 2]}},
        {"histogram": ["age"]},
        {"quantiles": {"age": [1.5]}},
        {"quantiles": {"age": []}},
        {"mean": "age", "precision": 0},
    ],
    ids=repr,
)
def test_a_wrong_question_is_refused_before_anything_is_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Statistics(**fields)


# --- minimum of rows -----------------------------------------------------------------------------

MIN_ROWS = 5


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"))
    for name in ("strict", "open"):
        found.node(name, NodeConfig(approval="off", threads=1)).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def table() -> pd.DataFrame:
    """Return 40 rows: ages 40 to 79; 37 are m and 3 are f; 3, 7 and 30 in a ward; one value of x is missing."""
    return pd.DataFrame(
        {
            "age": range(40, 80),
            "sex": ["f"] * 3 + ["m"] * 37,
            "ward": ["a"] * 3 + ["b"] * 7 + ["c"] * 30,
            "kind": ["p"] * 31 + ["q"] * 9,
            "x": [None] + [k % 7 + 0.5 for k in range(39)],
        }
    )


def offer(node: Node, name: str, min_rows: int, **options: str) -> None:
    """Register the table at a node."""
    path = node.folder / f"{name}.csv"
    table().to_csv(path, index=False)
    with node.database() as database:
        Datasets(database).add(describe_dataset(name, path, tags=[name], min_rows=min_rows, options=options))


@pytest.fixture
def dataset(federation: Federation) -> str:
    """Return the name of a dataset that nothing was told of, at a node that sets a minimum and at one that sets none."""
    name = f"d{secrets.token_hex(4)}"
    for node in federation.nodes:
        offer(node, name, MIN_ROWS if node.name == "strict" else 0)
    return name


def asked(session: Session, statistics: Statistics, data: str, **more: Any) -> Any:
    return Job(statistics, data=data, session=session, seed=1, **more).run(progress=False).value


def test_a_federation_gives_what_a_local_job_gives(
    federation: Federation, session: Session, tmp_path: Path
) -> None:
    for node in federation.nodes:
        offer(node, "free", 0)
    table().to_csv(tmp_path / "free.csv", index=False)
    statistics = Statistics(mean=["age", "x"], std="x", quantiles="age", covariance=["age", "x"], by="ward")
    far = asked(session, statistics, "free")
    near = locally(statistics, dict.fromkeys(("strict", "open"), tmp_path / "free.csv"), tmp_path)
    assert far.keys() == near.keys()
    for name in ("rows", "columns", "quantiles", "covariance"):
        pd.testing.assert_frame_equal(far[name], near[name], check_exact=True)
    assert far["nodes"] == near["nodes"] == {"open": 40, "strict": 40}


def test_few_outliers_are_withheld(federation: Federation, session: Session) -> None:
    (strict,) = (node for node in federation.nodes if node.name == "strict")
    name = f"d{secrets.token_hex(4)}"
    offer(strict, name, MIN_ROWS)
    # 2 of 40 ages lie below the fences and 2 above them; 10 and 10 are more than a half of a deviation off
    asked_for = Outliers(columns="age", whisker=0.4, z=0.85)
    found = Job(asked_for, data=f"strict/{name}", session=session).run(progress=False).value
    (row,) = found["columns"].to_dict("records")
    assert pd.isna(row["iqr_below"])
    assert pd.isna(row["iqr_above"])
    assert (row["count"], row["mean"]) == (40, 59.5)
    assert found["withheld"]["strict"] >= 2
    open_ = Job(asked_for, data={"path": strict.folder / f"{name}.csv"}, nodes="local", home=session.home)
    (row,) = open_.run(progress=False).value["columns"].to_dict("records")
    assert (row["iqr_below"], row["iqr_above"]) == (2, 2)


@pytest.mark.feature("TB-83")
def test_a_group_of_fewer_rows_is_withheld_and_so_is_what_would_tell_it(
    session: Session, dataset: str
) -> None:
    found = asked(session, Statistics(mean="age", min="age", by="ward"), f"strict/{dataset}")
    assert found["rows"].to_dict("list") == {
        "ward": ["c"],
        "rows": [30],
    }  # with b's 7, a's 3 were the rest of 40
    assert found["columns"]["ward"].tolist() == ["c"]
    assert found["withheld"] == {"strict": 5}  # two numbers of a, two of b, and the smallest age
    with pytest.raises(JobFailed, match="min_rows"):
        asked(session, Statistics(mean="age", by="sex"), f"strict/{dataset}")


def test_two_questions_that_differ_by_one_row_are_not_both_answered(session: Session, dataset: str) -> None:
    data = f"strict/{dataset}"
    everybody = asked(session, Statistics(mean="age"), data)
    assert everybody["columns"]["mean"][0] == 59.5
    with pytest.raises(JobFailed, match="min_rows"):
        asked(session, Statistics(mean="age"), data, preprocess=[Filter("age", "<", 79)])
    with pytest.raises(JobFailed, match="min_rows"):
        asked(session, Statistics(mean="age"), data, items=Items(limit=39))
    fewer = asked(session, Statistics(mean="age"), data, preprocess=[Filter("age", "<", 75)])
    assert fewer["columns"]["mean"][0] == 57.0
    # 74 is the oldest of these: alone, together with the five of before, and under another name
    for test, age in (("<", 74), (">=", 74)):
        with pytest.raises(JobFailed, match="min_rows"):
            asked(session, Statistics(mean="age"), data, preprocess=[Filter("age", test, age)])
    assert asked(session, Statistics(mean="age"), data)["columns"]["mean"][0] == 59.5


def test_another_researcher_does_not_get_the_other_half_of_a_difference(
    federation: Federation, session: Session, dataset: str, tmp_path: Path
) -> None:
    asked(session, Statistics(mean="x"), f"strict/{dataset}")
    with (
        open_session(
            federation, tmp_path / "other", Identity.generate(f"other{secrets.token_hex(3)}")
        ) as other,
        pytest.raises(JobFailed, match="min_rows"),
    ):
        asked(other, Statistics(mean="x"), f"strict/{dataset}", preprocess=[Filter("age", ">", 40)])


def test_bins_and_groups_do_not_isolate_anybody_together(session: Session, dataset: str) -> None:
    data = f"strict/{dataset}"
    first = asked(session, Statistics(histogram={"age": [40, 60, 80]}), data)["histogram"]
    assert first["count"].tolist() == [20, 20]
    moved = asked(session, Statistics(histogram={"age": [40, 61, 80]}), data)["histogram"]
    assert moved.empty
    kinds = asked(session, Statistics(categories="kind"), data)["categories"]
    assert kinds.set_index("category")["count"].to_dict() == {"p": 31, "q": 9}
    both = asked(session, Statistics(table=["kind", "sex"]), data)
    assert "f" not in set(both["table"]["sex"])
    quantiles = asked(session, Statistics(quantiles={"age": [0.5]}), data)["quantiles"]
    assert abs(quantiles["value"][0] - 59.5) <= quantiles["error"][0]
    assert quantiles["error"][0] >= 4  # no count tells fewer than five from the others


def test_covariances_with_a_mark_of_few_rows_are_withheld(session: Session, federation: Federation) -> None:
    path = federation.nodes[0].folder / "marked.csv"
    table().assign(woman=[1] * 3 + [0] * 37).to_csv(path, index=False)
    with federation.nodes[0].database() as database:
        Datasets(database).add(describe_dataset("marked", path, min_rows=MIN_ROWS))
    found = asked(session, Statistics(covariance=["age", "woman"], mean=["age", "woman"]), "strict/marked")
    assert found["columns"][["column", "mean"]].to_numpy().tolist() == [
        ["age", 59.5]
    ]  # that of woman counts three
    assert found["covariance"].empty  # the sum of products would be that of the three women's ages
    assert found["withheld"] == {"strict": 2}


def test_steps_that_change_values_hide_which_rows_they_are(session: Session, dataset: str) -> None:
    with pytest.raises(JobFailed, match="step 'impute' can't stand before statistics"):
        asked(session, Statistics(mean="x"), f"strict/{dataset}", preprocess=[Impute("x", value=0)])
    chosen = asked(session, Statistics(mean="x"), f"strict/{dataset}", preprocess=[Select(["x"])])
    assert chosen["columns"]["mean"][0] == pytest.approx(table()["x"].mean())


@pytest.mark.parametrize("extremes", ["no", "yes"])
def test_smallest_and_largest_values_are_told_where_the_owner_says_so(
    federation: Federation, session: Session, extremes: str
) -> None:
    name = f"e{extremes}"
    offer(federation.nodes[0], name, MIN_ROWS, extremes=extremes)
    found = asked(session, Statistics(min="age", max="age", count="age"), f"strict/{name}")
    row = found["columns"].iloc[0]
    assert row["count"] == 40
    if extremes == "yes":
        assert (row["min"], row["max"]) == (40, 79)
        wards = asked(session, Statistics(min="age", max="age", by="ward"), f"strict/{name}")
        assert wards["columns"][["ward", "min", "max"]].to_numpy().tolist() == [["c", 50, 79]]
    else:
        assert np.isnan([row["min"], row["max"]]).all()
        assert found["withheld"]["strict"] == 1


def test_what_one_node_holds_as_numbers_and_another_as_text_are_the_same_categories(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("code,ok,y\n1,True,1\n2,False,2\n1,,3\n")
    (tmp_path / "b.csv").write_text("code;ok;y\n1;True;1,5\nx;True;\n1;True;2,5\n")
    pd.DataFrame({"code": [1.0, 2.0, None], "ok": [True, None, False], "y": [1, None, 2**53]}).to_parquet(
        tmp_path / "c.parquet"
    )
    data = {"a": tmp_path / "a.csv", "b": tmp_path / "b.csv", "c": tmp_path / "c.parquet"}
    asked = Statistics(categories=["code", "ok"], mean="ok", count="y", max="y")
    found = locally(asked, {node: str(path) for node, path in data.items()}, tmp_path / "home")
    counts = (
        found["categories"]
        .groupby("column")
        .apply(lambda rows: dict(zip(rows.category, rows["count"], strict=True)))
    )
    assert counts["code"] == {"1": 5, "2": 2, "x": 1}
    assert counts["ok"] == {"True": 5, "False": 2}
    columns = found["columns"].set_index("column")
    assert columns.loc["ok", "mean"] == 5 / 7
    assert (columns.loc["y", "count"], columns.loc["y", "max"]) == (7, 2**53)
