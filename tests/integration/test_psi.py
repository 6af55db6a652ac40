"""Private set intersection: the common identifiers of three nodes, and no other one outside of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedjob
from fedjob import Job, JobFailed, PrivateSetIntersection, SpecError
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import decode_frame
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.storage.database import Database
from fedjob.repository.memory import MemoryRepository
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session

COMMON = ["canary-common-1", "canary-common-2"]
PEOPLE = {
    "ours": ["canary-ours-1", *COMMON, "canary-pair-1", COMMON[0]],
    "theirs": [COMMON[1], "canary-pair-1", " canary-common-1 ", None, "canary-theirs-1"],
    "third": ["canary-third-1", *COMMON],
}


class Keeping(MemoryRepository):
    """A repository that remembers every byte that was ever put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def store_object(self, sha256: str, blocks: Any, *, job: str, readers: tuple[str, ...]) -> None:
        super().store_object(sha256, blocks, job=job, readers=readers)
        self.seen += list(self.read_object(sha256, offset=0))  # type: ignore[arg-type]


def files(folder: Path, people: dict[str, list[Any]] = PEOPLE) -> dict[str, Path]:
    paths = {}
    for node, names in people.items():
        paths[node] = folder / f"{node}.csv"
        pd.DataFrame({"patient": names, "age": range(len(names))}).to_csv(paths[node], index=False)
    return paths


def local(folder: Path, operation: Any, people: dict[str, list[Any]] = PEOPLE) -> Job:
    job = Job(operation, data=files(folder, people), nodes="local", home=folder / "home")
    job.run(progress=False)
    return job


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    found = Federation(tmp_path, Keeping())
    for name, path in files(tmp_path).items():
        config = NodeConfig(approval="off", threads=1, own_of="lab" if name == "ours" else "")
        node = found.node(name, config)
        database = Database(node.home.database)
        Datasets(database).add(describe_dataset("patients", path, tags=["patients"]))
        database.close()
        node.start()
    yield found
    found.close()


@pytest.mark.feature("TB-79")
def test_three_nodes_find_their_common_identifiers_and_nothing_else_leaves_them(
    federation: Federation, tmp_path: Path
) -> None:
    frames: list[bytes] = []

    def look(sender: str, to: Address | None, data: bytes) -> int:
        frames.append(decode_frame(data).payload)
        return 1

    federation.broker.fate = look
    repository: Any = federation.repository
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
        psi = PrivateSetIntersection(on="patient", own="ours")
        job = Job(psi, data={"tags": ["patients"]}, session=session)
        job.run(progress=False)
        assert job.result.value.tolist() == COMMON
        told = {e.node: e.body["hash_table_size"] for e in job.events() if e.type == "metrics"}
        assert told == {"ours": 4, "theirs": 4, "third": 3}
        home = b"".join(path.read_bytes() for path in (tmp_path / "lab").rglob("*") if path.is_file())

    outside = b"".join([*frames, *repository.seen, home])
    assert len(frames) > 20
    assert b"canary-common-1".decode().encode("utf-32-le") in outside  # the result, as an array of text
    for names in PEOPLE.values():
        for name in {str(name).strip() for name in names if name} - set(COMMON):
            for form in ("utf-8", "utf-16-le", "utf-32-le"):
                assert name.encode(form) not in outside


@pytest.mark.feature("TB-86")
def test_without_an_own_dataset_there_is_no_intersection(tmp_path: Path) -> None:
    for make in (
        lambda: PrivateSetIntersection(on="patient"),
        lambda: fedjob.plans.psi(on="patient"),
        lambda: PrivateSetIntersection(own="ours"),
        lambda: PrivateSetIntersection(on={"ours": 3}, own="ours"),
    ):
        with pytest.raises(SpecError, match=r"own dataset|column of identifiers|own='node'"):
            make()
    with pytest.raises(JobFailed, match="elsewhere with your own dataset among them") as caught:
        local(tmp_path, PrivateSetIntersection(on="patient", own="elsewhere"))
    assert caught.value.reason == "spec"


def test_identifiers_may_be_numbers_under_other_names_and_have_nothing_in_common(tmp_path: Path) -> None:
    data = files(tmp_path, {"a": [7, 8, 9], "b": [9.0, None, 7.0]})
    pd.read_csv(data["b"]).rename(columns={"patient": "pid"}).to_csv(data["b"], index=False)
    for people, common in ((data, ["7", "9"]), ({**data, "c": files(tmp_path, {"c": [1]})["c"]}, [])):
        on = {"a": "patient", "b": "pid", "c": "patient"}
        job = Job(PrivateSetIntersection(on=on, own="b"), data=people, nodes="local", home=tmp_path / "home")
        job.run(progress=False)
        assert job.result.value.tolist() == common


def test_a_column_that_a_node_lacks_ends_the_job_with_the_nodes_name(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="names no column for theirs, third"):
        local(tmp_path, PrivateSetIntersection(on={"ours": "patient"}, own="ours"))
    psi = PrivateSetIntersection(on={"ours": "patient", "theirs": "name", "third": "patient"}, own="ours")
    with pytest.raises(
        JobFailed, match=r"needs the answers of all nodes.*theirs: spec: there is no column 'name'"
    ):
        local(tmp_path, psi)


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [
        ("9007199254740992\n456", '9007199254740993\n""', []),
        ('9007199254740993\n""', "9007199254740993\n1", ["9007199254740993"]),
        ("007\n8", "7\n008", []),
        ("1.10\n2.5", "1.1\n2.50", []),
        ('7.0\n8.0\n""', "7\n9", ["7"]),
        ("7\nA", "7.0\n9.0", ["7"]),
        ("True\n1", "TRUE\n1.5", []),
        ("12345678901234567890", "12345678901234567891\n12345678901234567890", ["12345678901234567890"]),
    ],
)
def test_identifiers_are_equal_where_their_texts_are(
    ours: str, theirs: str, common: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(f"id\n{ours}\n")
    (tmp_path / "b.csv").write_text(f"id\n{theirs}\n")
    data = {"a": tmp_path / "a.csv", "b": tmp_path / "b.csv"}
    job = Job(PrivateSetIntersection(on="id", own="a"), data=data, nodes="local", home=tmp_path / "home")
    assert job.run(progress=False).value.tolist() == common
