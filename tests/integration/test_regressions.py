"""Regressions, clusters and components of four hospitals: those of statsmodels, lifelines and scikit-learn on pooled rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import (
    PCA,
    CoxRegression,
    Job,
    JobFailed,
    KaplanMeier,
    KMeans,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    Ridge,
)
from fedjob.common.errors import SpecError
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.results.result_summary import tables_of
from tests.data import HOSPITALS, pooled_hearts

FEATURES = ["age", "sex", "cp", "trestbps", "thalach"]
TERMS = ["intercept", "age", "sex", "cp=2", "cp=3", "cp=4", "trestbps", "thalach"]
NUMBERS = ["age", "trestbps", "thalach"]


@pytest.fixture(scope="module")
def pooled() -> pd.DataFrame:
    """Return the hearts with an outcome of 0 and 1, and with made-up times of follow-up."""
    rows = pooled_hearts()
    rng = np.random.default_rng(4)
    rows["sick"] = (rows["num"] > 0).astype(int)
    rows["months"] = np.ceil(rng.exponential(30 * np.exp(-0.03 * (rows["age"] - 50))))
    rows["died"] = (rng.random(len(rows)) < 0.6).astype(int)
    return rows


@pytest.fixture(scope="module")
def data(pooled: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hearts")
    for hospital in HOSPITALS:
        own = pooled[pooled["hospital"] == hospital].drop(columns="hospital")
        own.to_csv(folder / f"{hospital}.csv", index=False)
    return {hospital: str(folder / f"{hospital}.csv") for hospital in HOSPITALS}


def run(protocol: Any, data: dict[str, str], home: Path) -> dict[str, Any]:
    value: dict[str, Any] = Job(protocol, data=data, nodes="local", home=home).run(progress=False).value
    return value


def design(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the matrix that statsmodels gets: hot columns for `cp` but its first, and a constant."""
    hot = pd.get_dummies(rows[FEATURES].astype({"cp": int}), columns=["cp"], drop_first=True, dtype=float)
    hot.insert(0, "intercept", 1.0)
    return hot.rename(columns={f"cp_{level}": f"cp={level}" for level in (2, 3, 4)})[TERMS]


def agree(coefficients: pd.DataFrame, fitted: Any, rtol: float = 1e-6) -> None:
    assert coefficients["term"].tolist() == list(fitted.params.index)
    np.testing.assert_allclose(coefficients["estimate"], fitted.params, rtol=rtol)
    np.testing.assert_allclose(coefficients["std_error"], fitted.bse, rtol=rtol)
    np.testing.assert_allclose(coefficients["p_value"], fitted.pvalues, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(coefficients[["low", "high"]], fitted.conf_int(), rtol=rtol, atol=1e-9)


def test_linear_regression_is_that_of_statsmodels(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    import statsmodels.api as sm

    rows = pooled.dropna(subset=[*FEATURES, "chol"])
    fitted = sm.OLS(rows["chol"], design(rows)).fit()
    found = run(LinearRegression(target="chol", features=FEATURES, categorical="cp"), data, tmp_path)
    agree(found["coefficients"], fitted)
    assert found["r_squared"] == pytest.approx(fitted.rsquared)
    assert found["rows"] == len(rows) == sum(found["nodes"].values())


def test_linear_regression_without_an_intercept(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    import statsmodels.api as sm

    rows = pooled.dropna(subset=[*NUMBERS, "chol"])
    fitted = sm.OLS(rows["chol"], rows[NUMBERS]).fit()
    found = run(LinearRegression(target="chol", features=NUMBERS, intercept=False), data, tmp_path)
    agree(found["coefficients"], fitted)
    assert found["r_squared"] == pytest.approx(fitted.rsquared)


def test_ridge_is_that_of_scikit_learn(pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge as Reference

    rows = pooled.dropna(subset=[*FEATURES, "chol"])
    fitted = Reference(alpha=7.0).fit(design(rows).iloc[:, 1:], rows["chol"])
    found = run(Ridge(target="chol", features=FEATURES, categorical="cp", alpha=7.0), data, tmp_path)
    estimates = found["coefficients"].set_index("term")["estimate"]
    assert estimates["intercept"] == pytest.approx(fitted.intercept_)
    np.testing.assert_allclose(estimates[TERMS[1:]], fitted.coef_, rtol=1e-8)


def test_logistic_regression_is_that_of_statsmodels(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    import statsmodels.api as sm

    rows = pooled.dropna(subset=[*FEATURES, "sick"])
    fitted = sm.Logit(rows["sick"], design(rows)).fit(disp=0, tol=1e-12)
    asked = LogisticRegression(target="sick", features=FEATURES, categorical="cp")
    result = Job(asked, data=data, nodes="local", home=tmp_path).run(progress=False)
    found = result.value
    agree(found["coefficients"], fitted)
    assert found["log_likelihood"] == pytest.approx(fitted.llf)
    ratios = result.tables["odds_ratios"]
    assert ratios["term"].tolist() == TERMS[1:]
    np.testing.assert_allclose(ratios["odds_ratio"], np.exp(fitted.params[1:]), rtol=1e-6)
    np.testing.assert_allclose(ratios[["low", "high"]], np.exp(fitted.conf_int()[1:]), rtol=1e-6)
    for term in TERMS[1:]:
        line = next(line for line in str(result.summary()).splitlines() if line.startswith(term))
        assert float(line.split()[1]) == pytest.approx(fitted.params[term], rel=1e-3)
    picture = tmp_path / "forest.png"
    result.plot(path=picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "\\begin{tabular}{lrrrrrr}" in result.to_latex()
    assert "| age |" in result.to_markdown()


def test_poisson_regression_is_that_of_statsmodels(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    import statsmodels.api as sm

    rows = pooled.dropna(subset=[*FEATURES, "num"])
    fitted = sm.GLM(rows["num"], design(rows), family=sm.families.Poisson()).fit(tol=1e-12)
    found = run(PoissonRegression(target="num", features=FEATURES, categorical="cp"), data, tmp_path)
    agree(found["coefficients"], fitted)
    assert found["log_likelihood"] == pytest.approx(fitted.llf)


@pytest.mark.parametrize("baseline", ["node", "shared"])
def test_cox_regression_is_that_of_lifelines(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path, baseline: str
) -> None:
    from lifelines import CoxPHFitter

    rows = pooled.dropna(subset=["age", "sex", "trestbps"])
    rows = rows[["age", "sex", "trestbps", "months", "died", "hospital"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines' own
        fitted = CoxPHFitter().fit(
            rows if baseline == "node" else rows.drop(columns="hospital"),
            "months",
            "died",
            strata=["hospital"] if baseline == "node" else None,
            fit_options={"precision": 1e-12},
        )
    asked = CoxRegression(
        duration="months", event="died", features=["age", "sex", "trestbps"], baseline=baseline
    )
    found = run(asked, data, tmp_path)
    coefficients = found["coefficients"]
    np.testing.assert_allclose(coefficients["estimate"], fitted.params_, rtol=1e-6)
    np.testing.assert_allclose(coefficients["std_error"], fitted.standard_errors_, rtol=1e-6)
    np.testing.assert_allclose(coefficients["p_value"], fitted.summary["p"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(coefficients["hazard_ratio"], fitted.hazard_ratios_, rtol=1e-6)
    assert found["log_likelihood"] == pytest.approx(fitted.log_likelihood_)
    assert found["events"] == rows["died"].sum()
    ratios = tables_of(found, "cox_regression")["hazard_ratios"]
    bounds = fitted.summary[["exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%"]]
    np.testing.assert_allclose(ratios[["hazard_ratio", "low", "high"]], bounds, rtol=1e-6)


def test_the_survival_that_a_cox_regression_predicts_is_that_of_lifelines_and_statsmodels(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    import statsmodels.api as sm
    from lifelines import CoxPHFitter

    features = ["age", "cp", "trestbps"]
    rows = pooled.dropna(subset=features)[[*features, "months", "died"]]
    dummies = pd.get_dummies(rows.astype({"cp": int}), columns=["cp"], drop_first=True, dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines' own
        fitted = CoxPHFitter().fit(dummies, "months", "died", fit_options={"precision": 1e-12})
    asked = CoxRegression(
        duration="months", event="died", features=features, categorical="cp", baseline="shared"
    )
    result = Job(asked, data=data, nodes="local", home=tmp_path).run(progress=False)
    baseline = result.tables["baseline"]
    for name, exact in (
        ("hazard", fitted.baseline_hazard_),
        ("cumulative_hazard", fitted.baseline_cumulative_hazard_),
        ("survival", fitted.baseline_survival_),
    ):
        np.testing.assert_allclose(baseline[name], exact.loc[baseline["time"]].iloc[:, 0], rtol=1e-6)
    patients = pd.DataFrame({"age": [45, 70], "cp": [1, 4], "trestbps": [120, 160.0]}, index=["Ada", "Bo"])
    times = [2.0, 6.0, 12.0, 40.0]
    found = result.predict_survival(patients, times=times).pivot(
        index="time", columns="row", values="survival"
    )
    as_terms = patients[["age", "trestbps"]].assign(
        **{name: float(name == "cp_4") * (patients["cp"] == 4) for name in dummies if name.startswith("cp_")}
    )
    exact = fitted.predict_survival_function(as_terms, times=times)
    np.testing.assert_allclose(found[["Ada", "Bo"]], exact, rtol=1e-6)

    terms = [name for name in dummies if name not in ("months", "died")]
    other = sm.PHReg(dummies["months"], dummies[terms], status=dummies["died"], ties="efron").fit(tol=1e-12)
    ((at, before, _),) = (
        other.baseline_cumulative_hazard
    )  # at each time of an event, without the events of that time
    at_zero = pd.Series(np.append(before[1:], np.nan), index=at)
    risk = np.exp(as_terms[terms].astype(float) @ np.asarray(other.params))
    for name in ("Ada", "Bo"):
        survival = np.exp(-at_zero.loc[times] * risk[name])
        np.testing.assert_allclose(found[name], survival, rtol=1e-6)


@pytest.mark.parametrize("times", [(), (6, 12, 24, 60, 400)], ids=["whole months", "five times"])
def test_survival_is_that_of_lifelines(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path, times: tuple[int, ...]
) -> None:
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test

    asked = KaplanMeier(duration="months", event="died", by="sex", times=times, bins=256)
    result = Job(asked, data=data, nodes="local", home=tmp_path).run(progress=False)
    grid = np.array(times or [result.value["survival"]["time"].max()])
    rows = pooled.assign(
        months=pooled["months"] if not times else grid[np.searchsorted(grid, pooled["months"])]
    )
    for sex, curve in result.value["survival"].groupby("sex"):
        part = rows[rows["sex"] == sex]
        fitted = KaplanMeierFitter().fit(part["months"], part["died"])
        assert curve["survival"].to_numpy() == pytest.approx(
            fitted.survival_function_at_times(curve["time"]).to_numpy()
        )
        bounds = fitted.confidence_interval_.loc[curve["time"].iloc[1:-1]]
        np.testing.assert_allclose(curve[["low", "high"]].iloc[1:-1], bounds, rtol=1e-9)
        medians = result.value["medians"].set_index("sex").loc[sex]
        assert (medians["rows"], medians["events"]) == (len(part), part["died"].sum())
        assert medians["median"] == fitted.median_survival_time_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines' own
        women, men = (rows[rows["sex"] == sex] for sex in (0, 1))
        exact = logrank_test(women["months"], men["months"], women["died"], men["died"])
    assert result.value["logrank"]["p_value"][0] == pytest.approx(exact.p_value)
    assert set(result.value["withheld"].values()) == set(result.value["joined"].values()) == {0}
    assert "Survival (Kaplan-Meier)" in str(result)
    assert result.plot(path=tmp_path / "survival.png").axes[0].get_xlabel() == "months"


def test_k_means_ends_where_pooled_rows_end(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path
) -> None:
    from sklearn.cluster import KMeans as Reference

    rows = pooled[NUMBERS].dropna()
    first = rows.iloc[[0, 300, 700]].to_numpy()
    fitted = Reference(3, init=first, n_init=1, tol=0).fit(rows)
    asked = KMeans(features=NUMBERS, clusters=3, scale=False, first=first.tolist(), tolerance=0)
    found = run(asked, data, tmp_path)
    np.testing.assert_allclose(found["centres"][NUMBERS], fitted.cluster_centers_, rtol=1e-8)
    assert found["centres"]["rows"].tolist() == np.bincount(fitted.labels_).tolist()
    assert found["inertia"] == pytest.approx(fitted.inertia_)


def test_k_means_draws_its_first_centres_from_a_seed(data: dict[str, str], tmp_path: Path) -> None:
    once, again = (run(KMeans(features=NUMBERS, clusters=3, seed=5), data, tmp_path / name) for name in "ab")
    pd.testing.assert_frame_equal(once["centres"], again["centres"], check_exact=True)
    short = run(KMeans(features=NUMBERS, clusters=3, seed=5, max_steps=1), data, tmp_path / "c")
    assert short["inertia"] > once["inertia"]


@pytest.mark.parametrize("scale", [False, True])
def test_components_are_those_of_scikit_learn(
    pooled: pd.DataFrame, data: dict[str, str], tmp_path: Path, scale: bool
) -> None:
    from sklearn.decomposition import PCA as Reference

    rows = pooled[NUMBERS].dropna()
    fitted = Reference(2).fit((rows - rows.mean()) / rows.std() if scale else rows)
    found = run(PCA(features=NUMBERS, components=2, scale=scale), data, tmp_path)
    components = found["components"]
    signs = np.sign((components[NUMBERS].to_numpy() * fitted.components_).sum(axis=1))
    np.testing.assert_allclose(components[NUMBERS], fitted.components_ * signs[:, None], rtol=1e-8)
    np.testing.assert_allclose(components["variance"], fitted.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(components["ratio"], fitted.explained_variance_ratio_, rtol=1e-10)
    assert found["means"] == pytest.approx(rows.mean().to_dict())


# --- what hospitals differ in --------------------------------------------------------------------


def write(folder: Path, **tables: dict[str, list[Any]]) -> dict[str, str]:
    for node, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"{node}.csv", index=False)
    return {node: str(folder / f"{node}.csv") for node in tables}


def test_a_category_of_one_node_and_a_node_with_one_row_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    a = {"y": rng.normal(size=9).tolist(), "x": rng.normal(size=9).tolist(), "kind": ["p", "q", "p"] * 3}
    b = {"y": rng.normal(size=6).tolist(), "x": rng.normal(size=6).tolist(), "kind": ["r", "p"] * 3}
    c = {"y": [0.3], "x": [0.1], "kind": ["q"]}
    data = write(tmp_path, a=a, b=b, c=c)
    found = run(LinearRegression(target="y", features=["kind", "x"], categorical=["kind"]), data, tmp_path)
    rows = pd.concat([pd.DataFrame(one) for one in (a, b, c)])
    matrix = np.column_stack([np.ones(16), rows["kind"] == "q", rows["kind"] == "r", rows["x"]]).astype(float)
    expected = np.linalg.lstsq(matrix, rows["y"].to_numpy(), rcond=None)[0]
    assert found["coefficients"]["term"].tolist() == ["intercept", "kind=q", "kind=r", "x"]
    np.testing.assert_allclose(found["coefficients"]["estimate"], expected, rtol=1e-8)


TABLE = {
    "y": [0, 1, 0, 1, 1, 0, 1, 0],
    "x": [1, 2, 3, 4, 5, 6, 7, 8],
    "twice": [2, 4, 6, 8, 10, 12, 14, 16],
    "same": [3] * 8,
    "empty": [None] * 8,
    "name": list("abcdefgh"),
    "split": [0, 1, 0, 1, 1, 0, 1, 0],
}


def test_a_time_in_nanoseconds_explains_as_it_does_in_seconds(tmp_path: Path) -> None:
    seconds = np.arange(300)
    draw = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "t": (1.7e18 + seconds * 1e9).astype("int64"),
            "s": seconds,
            "y": 0.5 * seconds + draw.normal(size=300),
        }
    )
    paths = {}
    for name, part in (("a", rows[:100]), ("b", rows[100:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        paths[name] = str(tmp_path / f"{name}.csv")
    found, expected = (
        run(LinearRegression(target="y", features=[column]), paths, tmp_path / column)
        for column in ("t", "s")
    )
    slopes = (
        found["coefficients"].set_index("term").loc["t"],
        expected["coefficients"].set_index("term").loc["s"],
    )
    assert slopes[0]["estimate"] * 1e9 == pytest.approx(slopes[1]["estimate"], rel=1e-6)
    assert slopes[0]["std_error"] * 1e9 == pytest.approx(slopes[1]["std_error"], rel=1e-6)
    same = pd.DataFrame({"t": [1_700_000_000_000_000_001] * 4, "y": [1.0, 2.0, 3.0, 5.0]})
    same.to_csv(tmp_path / "same.csv", index=False)
    with pytest.raises(JobFailed, match="t has the same value in all 4"):
        run(
            LinearRegression(target="y", features=["t"]), {"a": str(tmp_path / "same.csv")}, tmp_path / "same"
        )


@pytest.mark.parametrize(
    ("asked", "reason", "says"),
    [
        (LinearRegression(target="y", features=["x", "twice"]), "unsolvable", "terms are sums of others"),
        (LinearRegression(target="y", features=["same"]), "unsolvable", "same has the same value in all 8"),
        (LinearRegression(target="y", features=["empty"]), "unsolvable", "0 rows of all nodes together"),
        (
            LinearRegression(target="y", features=["name"], categorical="name"),
            "unsolvable",
            "8 complete rows are not enough",
        ),
        (LogisticRegression(target="y", features=["split"]), "unsolvable", "separate the outcomes"),
        (
            LogisticRegression(target="x", features=["y"]),
            "quorum_lost",
            "'x' holds other numbers than 0 and 1",
        ),
        (
            PoissonRegression(target="split", features=["x", "twice"]),
            "unsolvable",
            "terms are sums of others",
        ),
        (
            CoxRegression(duration="x", event="twice", features=["y"]),
            "quorum_lost",
            "other numbers than 0 and 1",
        ),
        (
            LogisticRegression(target="y", features=["empty"], categorical="empty"),
            "unsolvable",
            "no category that a node may release",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_data_do_not_determine_is_named(tmp_path: Path, asked: Any, reason: str, says: str) -> None:
    with pytest.raises(JobFailed, match=says) as caught:
        run(asked, write(tmp_path, a=TABLE), tmp_path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("feature", "says"), [("name", r"expected numbers, found name \(string\)"), ("z", "no column 'z'")]
)
def test_columns_that_do_not_fit_are_named_before_anybody_is_asked(
    tmp_path: Path, feature: str, says: str
) -> None:
    job = Job(
        LinearRegression(target="y", features=[feature]),
        data=write(tmp_path, a=TABLE),
        nodes="local",
        home=tmp_path,
    )
    with pytest.raises(SpecError, match=says):
        job.run(progress=False)
    assert job.state == "draft"


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearRegression(target="y", features=[]),
        lambda: LinearRegression(target="y", features=["y"]),
        lambda: LogisticRegression(target="y", features=["x"], categorical=["z"]),
        lambda: Ridge(target="y", features=["x"], alpha=0),
        lambda: CoxRegression(duration="t", event="e", features=["x"], baseline="mine"),
        lambda: CoxRegression(duration="t", event="e", features=["t"]),
        lambda: KMeans(features=["x"], clusters=1),
        lambda: KMeans(features=["x"], clusters=2, first=[[1.0]]),
        lambda: PCA(features=["x"]),
        lambda: PCA(features=["x", "y"], components=3),
    ],
    ids=range(10),
)
def test_a_wrong_setting_is_refused_before_anything_is_sent(make: Any) -> None:
    with pytest.raises(SpecError):
        make()


@pytest.mark.parametrize(
    "protocol",
    [
        Ridge(target="y", features=["x"], alpha=2.0),
        PoissonRegression(target="y", features=["x", "z"], categorical="z", intercept=False),
        CoxRegression(duration="t", event="e", features="x", baseline="shared"),
        KMeans(features=["x", "y"], clusters=2, first=[[0, 1], [2, 3]]),
        PCA(features=["x", "y"]),
    ],
    ids=lambda protocol: protocol.name,
)
def test_a_protocol_is_built_again_from_plain_data(protocol: Any) -> None:
    assert PROTOCOLS.build(*PROTOCOLS.config_of(protocol)) == protocol
