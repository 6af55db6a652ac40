"""Preprocessing in jobs: the plan sees what the steps leave, and the owner's file stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedjob
from fedjob import Job, JobFailed
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.categories import Encode
from fedjob.data.preprocessing.columns import Cast, Select
from fedjob.data.preprocessing.missing import Impute
from fedjob.data.preprocessing.rows import Filter
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.storage.database import Database
from tests.integration.nodes import Federation
from tests.integration.test_jobs_over_memory import open_session

STEPS = [
    Filter("age", ">=", 18),
    Impute("pressure", value=120.0),
    Encode("sex", ("f", "m"), drop_first=True),
    Select(("age", "sex=m", "sick")),
]


@fedjob.function
def what_it_sees(dataset):  # type: ignore[no-untyped-def]
    frame = dataset.frame()
    return {"columns": [str(name) for name in frame], "rows": frame.to_numpy().tolist()}


SEEN = {"columns": ["age", "sex=m", "sick"], "rows": [[40.0, 0.0, 0.0], [60.0, 1.0, 1.0]]}


def patients(folder: Path) -> Path:
    frame = pd.DataFrame(
        {
            "name": ["ann", "bob", "cyd"],
            "age": [40.0, 60.0, 7.0],
            "sex": ["f", "m", "f"],
            "pressure": [110.0, None, 100.0],
            "sick": [0, 1, 0],
        }
    )
    path = folder / "patients.csv"
    frame.to_csv(path, index=False)
    return path


def test_a_local_job_sees_what_the_steps_leave(tmp_path: Path) -> None:
    data = patients(tmp_path)
    job = Job(what_it_sees, data=data, preprocess=STEPS, nodes="local", home=tmp_path / "home")
    job.run(progress=False)
    assert job.result.value == SEEN


@pytest.mark.feature("TB-12")
def test_a_node_prepares_the_data_in_memory_and_its_file_stays_as_it_is(tmp_path: Path) -> None:
    data = patients(tmp_path)
    before = (data.read_bytes(), data.stat().st_mtime_ns)
    folder = tmp_path / "federation"
    folder.mkdir()
    federation = Federation(folder)
    node = federation.node("clinic", NodeConfig(approval="off", threads=1))
    database = Database(node.home.database)
    Datasets(database).add(describe_dataset("patients", data, tags=["patients"]))
    database.close()
    node.start()
    try:
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            job = Job(what_it_sees, data="clinic/patients", preprocess=STEPS, session=session)
            job.run(progress=False)
            assert job.result.value == SEEN
            wrong = Job(
                what_it_sees, data="clinic/patients", preprocess=[Cast("name", "int")], session=session
            )
            with pytest.raises(JobFailed, match="clinic: spec: Cast: name can't be turned into int"):
                wrong.run(progress=False)
            assert job.spec.datasets["clinic"]["preprocess"][-1] == {
                "step": "select",
                "columns": ["age", "sex=m", "sick"],
            }
    finally:
        federation.close()
    assert (data.read_bytes(), data.stat().st_mtime_ns) == before


@pytest.mark.feature("TB-13")
@pytest.mark.parametrize(("num_lists", "fits"), [(0, True), (1, True), (2, False), (3, True)])
def test_there_is_one_list_of_steps_for_all_datasets_or_one_for_each(
    tmp_path: Path, num_lists: int, fits: bool
) -> None:
    data = ["a/patients", "b/patients", "c/patients"]
    arguments: dict[str, Any] = {"data": data, "preprocess": [STEPS] * num_lists, "home": tmp_path}
    if fits:
        assert Job(what_it_sees, **arguments).state == "draft"
        return
    with pytest.raises(SpecError, match="one for each of the 3; found 2"):
        Job(what_it_sees, **arguments)
    assert not list(tmp_path.glob("jobs/*"))
