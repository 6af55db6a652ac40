"""Sites with few rows in a job: they train, the others validate, and the result counts everybody's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedjob import Ditto, FedAvg, FineTuned, Job, Quorum
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.rows import Filter
from fedjob.protocols.base import FederatedProtocol
from tests.data import TRAINING, make_points
from tests.plans import Linear, Tiny

CHECKED = {**TRAINING, "test_ratio": 0.2, "test_on_global_updates": True, "test_on_local_updates": True}


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, str]:
    return {"many": str(make_points(tmp_path / "many.npz", 40, 0)), "one": one_patient(tmp_path)}


def one_patient(folder: Path) -> str:
    with np.load(make_points(folder / "few.npz", 8, 1)) as few:
        np.savez(folder / "one.npz", x=few["x"][:1], y=few["y"][:1])
    return str(folder / "one.npz")


@pytest.mark.parametrize("protocol", [FedAvg(), Ditto(), FineTuned(num_updates=1)], ids=lambda p: p.name)
def test_a_site_with_one_patient_trains_and_has_no_validation_of_its_own(
    protocol: FederatedProtocol, sites: dict[str, str], tmp_path: Path
) -> None:
    job = Job(
        protocol,
        training_plan=Linear,
        data=sites,
        nodes="local",
        training_args={**CHECKED, "test_metric": []},
        rounds=2,
        home=tmp_path,
        quorum=Quorum(required="all"),
        validate_at_end=True,
    )
    result = job.run(progress=False)
    assert {number: one.replied for number, one in job.rounds.items()} == {
        1: ("many", "one"),
        2: ("many", "one"),
    }
    assert result.participation.complete
    assert {row.phase for row in result.rows if row.node == "one"} == {"train"}
    assert {row.phase for row in result.rows if row.node == "many"} >= {
        "train",
        "before",
        "after",
        "validate",
    }


def test_a_job_that_asks_for_validation_without_a_split_is_told_how_to_get_one(
    sites: dict[str, str], tmp_path: Path
) -> None:
    job = Job(
        FedAvg(),
        training_plan=Tiny,
        data=sites,
        nodes="local",
        training_args={**CHECKED, "test_ratio": 0.0},
        home=tmp_path,
    )
    with pytest.raises(
        SpecError, match="there are no test data: give training_args test_ratio above 0"
    ) as refused:
        job.run(progress=False)
    assert "write Tiny.testing_data" in str(refused.value)
    assert (job.state, job.tasks) == ("draft", [])


def test_a_result_says_how_many_rows_were_registered_read_and_used(tmp_path: Path) -> None:
    lines = ["age,a,b,c,sick"] + [f"{age},0.1,0.2,0.3,{age % 2}" for age in range(20, 60)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    job = Job(
        FedAvg(),
        training_plan=Tiny,
        data={"a": str(tmp_path / "t.csv")},
        nodes="local",
        training_args=CHECKED,
        preprocess=[Filter("age", ">=", 30)],
        home=tmp_path,
    )
    result = job.run(progress=False)
    part = result.participation["a"]
    assert (part.rows_registered, part.rows_read, part.rows_used) == (40, 40, 30)
    assert str(result.participation) == "1 of 1 nodes, 30 of 40 rows"
    assert result.participants.to_numpy().tolist() == [["a", 1, 40, 40, 30, ""]]
    assert "30 of 40 rows" in repr(result)
