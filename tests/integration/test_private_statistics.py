"""Statistics with differential privacy as jobs: at sites of this process, at real nodes, under secure aggregation."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import (
    PCA,
    Filter,
    Items,
    Job,
    JobFailed,
    LinearRegression,
    Protect,
    RecordDP,
    Scale,
    SpecError,
    Statistics,
)
from fedjob.common.errors import FedjobError
from fedjob.common.types import new_job_id
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import PrivacyBudget
from fedjob.privacy.dp.mechanisms import Pure
from fedjob.protocols import PROTOCOLS
from tests.data import heart_data, pooled_hearts
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session

WANTED = RecordDP(epsilon=5.0, delta=1e-5)
HEARTS = Statistics(
    count="chol",
    missing="chol",
    mean="age",
    categories="cp",
    table=["sex", "exang"],
    histogram={"age": (40, 50, 60)},
    quantiles={"age": 0.5},
    bounds={"age": (20, 90)},
    levels={"cp": [1, 2, 3, 4], "sex": [0, 1], "exang": [0, 1]},
)


def near(found: Any, exact: float, noise: Any) -> bool:
    """Return whether a number is within 10 standard deviations of its noise; by chance one in a million is not."""
    return bool(abs(float(found) - exact) <= 10 * float(noise) + 1e-9)


@pytest.mark.parametrize("secagg", [False, True])
def test_statistics_of_hospitals_are_right_but_for_the_noise_that_they_state(
    tmp_path: Path, secagg: bool
) -> None:
    protect = Protect(secagg=True, dp=WANTED) if secagg else Protect(dp=WANTED)
    job = Job(HEARTS, data=heart_data(), nodes="local", home=tmp_path, protect=protect)
    found = job.run(progress=False).value
    pooled = pooled_hearts()
    age, chol = (
        found["columns"].set_index("column").loc["age"],
        found["columns"].set_index("column").loc["chol"],
    )
    assert near(age["mean"], pooled["age"].mean(), age["mean_noise"])
    assert near(chol["count"], pooled["chol"].count(), chol["count_noise"])
    assert near(chol["missing"], pooled["chol"].isna().sum(), chol["missing_noise"])
    for row in found["categories"].to_dict("records"):
        assert near(row["count"], (pooled["cp"] == row["category"]).sum(), row["noise"])
    for row in found["table"].to_dict("records"):
        cell = (pooled["sex"] == row["sex"]) & (pooled["exang"] == row["exang"])
        assert near(row["count"], cell.sum(), row["noise"])
    (middle,) = found["quantiles"].to_dict("records")
    assert middle["low"] - 3 <= pooled["age"].median() <= middle["high"] + 3
    sums = 2 + 1 + 1 + 1 + 1 + 8
    assert found["noise"]["sums"] == sums
    assert found["noise"]["count"] == pytest.approx(found["categories"]["noise"][0])
    sizes = pooled.groupby("hospital").size()
    assert (
        list(found["nodes"].values()) == [None] * 4
        if secagg
        else sorted(found["nodes"].values()) == sorted(sizes)
    )
    assert not {"coverage", "present", "withheld", "rows"} & set(found)


def test_a_filter_that_leaves_one_person_or_nobody_is_answered_with_noise_alone(tmp_path: Path) -> None:
    pd.DataFrame({"id": range(500), "hiv": [0, 1] * 250}).to_csv(tmp_path / "a.csv", index=False)
    for steps in (
        [Filter("id", "==", 7)],
        [Filter("id", "==", 700)],
        [Filter("id", "in", [7]), Filter("hiv", "==", 1)],
    ):
        job = Job(
            Statistics(
                count="id", mean="hiv", categories="hiv", bounds={"hiv": (0, 1)}, levels={"hiv": [0, 1]}
            ),
            data={"a": str(tmp_path / "a.csv")},
            nodes="local",
            home=tmp_path,
            protect=RecordDP(epsilon=0.5, delta=1e-6),
            preprocess=steps,
        )
        found = job.run(progress=False)
        assert found.value["nodes"] == {"a": 500}
        (row,) = found.value["columns"][found.value["columns"]["column"] == "id"].to_dict("records")
        assert row["count"] <= 1 + 10 * row["count_noise"]
        assert row["count_noise"] > 5
        assert "1 of 500" not in repr(found)


@pytest.mark.parametrize(
    ("protocol", "more", "expected"),
    [
        (Statistics(mean="age"), {}, "needs bounds="),
        (Statistics(categories="cp"), {}, "needs levels="),
        (Statistics(max="age"), {}, "values of single records"),
        (HEARTS, {"preprocess": [Scale(["age"])]}, "finds values in the data"),
        (HEARTS, {"items": Items(limit=9)}, "Leave items out"),
        (HEARTS, {"protect": None}, "is for differential privacy, and the job has none"),
        (LinearRegression(target="age", features=["chol"]), {}, "ask Statistics for covariances with bounds"),
        (PCA(features=["age", "chol"]), {}, "ask Statistics for covariances with bounds"),
    ],
)
def test_what_has_no_private_form_is_refused_before_anything_is_on_disk(
    tmp_path: Path, protocol: Any, more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        Job(protocol, data=heart_data(), nodes="local", home=tmp_path, **{"protect": WANTED, **more})
    assert not list(tmp_path.rglob("*.json"))


def test_a_node_with_too_few_rows_for_the_noise_says_so_and_computes_nothing(tmp_path: Path) -> None:
    pd.DataFrame({"age": range(30)}).to_csv(tmp_path / "a.csv", index=False)
    asked = Statistics(count="age", histogram={"age": (0, 10, 20)})
    protect = RecordDP(epsilon=0.05, delta=1e-6)
    job = Job(asked, data={"a": str(tmp_path / "a.csv")}, nodes="local", home=tmp_path, protect=protect)
    with pytest.raises(JobFailed, match="the dataset has 30 rows: nothing could be seen"):
        job.run(progress=False)


# --- real nodes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"))
    for name in ("east", "west"):
        node = found.node(name, NodeConfig(approval="off", threads=1)).start()
        path = node.folder / "stays.csv"
        rng = np.random.default_rng(len(name))
        days = rng.integers(1, 30, 400)
        pd.DataFrame({"days": days, "ward": ["a"] * 3 + ["b"] * 397}).to_csv(path, index=False)
        with node.database() as database:
            Datasets(database).add(describe_dataset("stays", path, tags=["stays"], min_rows=50))
            PrivacyAccounts(database).set_budget(
                PrivacyBudget(dataset="stays", epsilon=5.0, delta=1e-5), "owner"
            )
    yield found
    found.close()


def test_nodes_answer_with_noise_of_their_own_until_their_budgets_are_spent(
    federation: Federation, tmp_path: Path
) -> None:
    asked = Statistics(
        mean="days", categories="ward", bounds={"days": (0, 60)}, levels={"ward": ["a", "b", "c"]}
    )
    with open_session(
        federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")
    ) as session:
        found = [
            Job(asked, data="stays", session=session, protect=RecordDP(epsilon=2.0, delta=1e-5)).run(
                progress=False
            )
            for _ in range(2)
        ]
        with pytest.raises(FedjobError, match="budget"):
            Job(asked, data="stays", session=session, protect=RecordDP(epsilon=2.0, delta=1e-5)).run(
                progress=False
            )
        with pytest.raises(FedjobError, match="privacy"):
            Job(Statistics(mean="days"), data="stays", session=session).run(progress=False)
    for node in federation.nodes:
        with node.database() as database:
            charges = [one for one in PrivacyAccounts(database).charges() if one.dataset == "stays"]
        assert [charge.mechanisms for charge in charges] == [
            (Pure(epsilon=pytest.approx(2 / 3), number=3),)
        ] * 2
    first, second = (result.value for result in found)
    rows = pd.concat([pd.read_csv(node.folder / "stays.csv") for node in federation.nodes])
    (mean,) = first["columns"].to_dict("records")
    assert near(mean["mean"], rows["days"].mean(), mean["mean_noise"])
    assert first["nodes"] == {"east": 400, "west": 400}
    for value in (first, second):
        counts = value["categories"]
        for row, exact in zip(
            counts.to_dict("records"), (6, 794, 0), strict=True
        ):  # fewer than min_rows, too
            assert near(row["count"], exact, row["noise"])
        one_node = 3 / 2.0 * math.sqrt(2)
        assert counts["noise"].iloc[0] == pytest.approx(one_node * math.sqrt(2), rel=0.05)
    assert not first["columns"].equals(second["columns"])


def test_a_researcher_that_lies_gets_neither_exact_numbers_nor_more_than_it_pays_for(
    federation: Federation,
) -> None:
    ann, (east, _) = federation.ann, federation.nodes
    path = east.folder / "plain.csv"
    pd.DataFrame({"days": range(400)}).to_csv(path, index=False)
    with east.database() as database:
        for name in ("plain", "spared"):
            Datasets(database).add(describe_dataset(name, path, tags=[name]))
        PrivacyAccounts(database).set_budget(
            PrivacyBudget(dataset="spared", epsilon=9.0, delta=1e-5), "owner"
        )
    name, config = PROTOCOLS.config_of(Statistics(mean="days", bounds={"days": (0, 400)}))
    private = Task(
        dataset="spared", protocol=name, config=config, protect=Protect(dp=WANTED).to_plain(), rounds=1000
    )

    def ask(task: Task, step: str, round_: int = 1) -> Any:
        return ann.result("east", task, step=step, round_=round_)

    for step in ("count", "centre", "refine", "learn"):
        result = ask(private, step)
        assert (result.ok, result.reason, result.value) == (False, "privacy", None), step
        ann.job = new_job_id()
    plainly = replace(private, protect={})
    assert ask(plainly, "noised").reason == "budget"
    ann.job = new_job_id()
    assert ask(replace(plainly, dataset="plain"), "noised").reason == "privacy"
    ann.job = new_job_id()
    first = ask(private, "noised")
    assert first.ok, first.detail
    assert 4.9 < first.privacy["epsilon"] <= 5.0
    assert first.num_examples == 0
    assert not first.metrics
    assert set(first.rows) <= {"registered"}
    again = ask(replace(private, seed=5), "noised", 2)
    assert (again.ok, again.reason) == (False, "budget")
