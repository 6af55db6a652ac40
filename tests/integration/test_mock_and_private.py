"""Mocks: stand-ins that researchers may see, and the same job on the private data afterwards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner, Result

import fedjob
from fedjob import FedAvg, Job, JobFailed
from fedjob.common.errors import JobError, NoDatasets, SpecError
from fedjob.common.types import Contact
from fedjob.data.archive import unpack_data
from fedjob.identity.keys import Identity
from fedjob.node.cli.data import data
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.limits import GrantLimits
from fedjob.researcher.jobs.session import Session
from tests import remote
from tests.data import TRAINING
from tests.integration.nodes import Federation, Node
from tests.integration.test_bringing import wait_for
from tests.integration.test_functions import write_table
from tests.integration.test_jobs_over_memory import open_session
from tests.integration.test_node_queue import configure
from tests.plans import Linear

SECRET = 987654321


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("mocks"))
    node = found.node("node1", NodeConfig(approval="off", threads=1, contact="ada@hospital.example"))
    private = write_table(node.folder / "private.csv", A=[1, 2, 3], B=[10, 20, 30], C=[SECRET, 5, 6])
    mock = write_table(node.folder / "mock.csv", A=[1, 2, 1], B=[20, 10, 20], C=[0, 5, 6])
    with node.database() as database:
        about = {
            "tags": ["heart"],
            "mock": mock,
            "description": "Hearts of 2024",
            "contact": "bo@hospital.example",
        }
        Datasets(database).add(describe_dataset("heart", private, **about))  # type: ignore[arg-type]
    node.start()
    yield found
    found.close()


@pytest.fixture
def node(federation: Federation) -> Iterator[Node]:
    """The node; its settings and datasets are the old ones afterwards."""
    (found,) = federation.nodes
    before = found.config
    yield found
    configure(found, before)
    with found.database() as database:
        datasets = Datasets(database)
        for dataset in datasets.all():
            if dataset.name not in ("heart", "toy"):
                datasets.remove(dataset.name)


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def data_command(node: Node, *words: str) -> Result:
    """Run `fedjob node data ...` on the node's home."""
    return CliRunner().invoke(data, [*words, "--home", str(node.home.root)])


def sums_job(session: Session, **changes: Any) -> Job:
    return Job(remote.sums, **{"data": "node1/heart", "session": session, **changes})


@pytest.mark.feature("PS-30", "PS-50", "PS-53")
def test_the_same_function_runs_on_the_mock_and_then_on_the_private_data(session: Session) -> None:
    mock = sums_job(session, use="mock")
    assert mock.run(progress=False).value == {"A": 4, "B": 50, "C": 11}
    private = sums_job(session)
    assert private.run(progress=False).value == {"A": 6, "B": 60, "C": SECRET + 11}
    assert mock.spec.plan_hash == private.spec.plan_hash
    assert mock.data[0].version != private.data[0].version


@pytest.mark.feature("PS-30")
def test_a_local_job_reads_its_mock_alike(tmp_path: Path) -> None:
    data = {
        "path": write_table(tmp_path / "p.csv", A=[1, 2, 3]),
        "mock": write_table(tmp_path / "m.csv", A=[1, 2, 1]),
    }
    jobs = [Job(remote.sums, data=data, use=use, nodes="local", home=tmp_path) for use in ("mock", "private")]
    assert [job.run(progress=False).value["A"] for job in jobs] == [4, 6]
    with pytest.raises(SpecError, match="needs a mock"):
        Job(remote.sums, data={"path": data["path"]}, use="mock", nodes="local", home=tmp_path).run(
            progress=False
        )


@pytest.mark.feature("PS-21")
def test_a_handle_brings_the_mock_and_never_the_data(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    carried: list[bytes] = []
    federation.broker.fate = lambda sender, to, data: carried.append(data) or 1  # type: ignore[func-returns-value]
    try:
        (handle,) = session.datasets(name="heart")
        mock = handle.mock()
    finally:
        federation.broker.fate = None
    frame = mock.frame()
    assert list(frame.A) == [1, 2, 1]
    assert remote.sums(mock) == {"A": 4, "B": 50, "C": 11}
    Job(remote.sums, data=mock.path, nodes="local", home=tmp_path).run(progress=False)
    spied = b"".join(carried)
    assert str(SECRET).encode() not in spied
    assert SECRET.to_bytes(4, "big") not in spied
    kept = b"".join(path.read_bytes() for path in session.home.rglob("*") if path.is_file())
    assert b"1,20" in kept
    assert str(SECRET).encode() not in kept
    stored = [unpacked(session, sha256, tmp_path) for sha256 in list(session.repository._objects)]  # type: ignore[attr-defined]
    assert all(str(SECRET) not in text for text in stored)
    assert "Hearts of 2024" in handle._repr_html_()
    assert handle.describe()["contacts"][0]["address"] == "bo@hospital.example"


def unpacked(session: Session, sha256: str, folder: Path) -> str:
    """Return what an object in the repository holds, as text."""
    archive = folder / f"{sha256}.zip"
    archive.write_bytes(b"".join(bytes(block) for block in session.repository.read_object(sha256, offset=0)))
    try:
        path = unpack_data(archive, folder / sha256, limit_bytes=1 << 20)
    except Exception:
        return archive.read_bytes().decode("latin-1")
    return path.read_text(encoding="latin-1")


def test_a_node_that_publishes_no_mocks_says_so(session: Session, node: Node) -> None:
    node.config = NodeConfig(approval="off", threads=1, publish_mocks="off")
    wait_for(lambda: not session.datasets(name="heart")[0].extra["mock_published"])
    (handle,) = session.datasets(name="heart")
    with pytest.raises(SpecError, match=r"publish_mocks.*bo@hospital"):
        handle.mock()
    (toy,) = session.datasets(name="toy")
    with pytest.raises(SpecError, match="has no mock"):
        toy.mock()
    with pytest.raises(NoDatasets, match="have no mock"):
        sums_job(session, data="node1/toy", use="mock").run(progress=False)


@pytest.mark.feature("PS-16")
def test_a_mock_of_another_form_is_a_warning_and_searches_tell_that_there_is_one(
    session: Session, node: Node
) -> None:
    odd = write_table(node.folder / "odd.csv", A=["x", "y"], Z=[1, 2])
    done = data_command(node, "add", "odd", str(node.folder / "private.csv"), "--mock", str(odd))
    assert done.exit_code == 0, done.output
    assert "warning" in done.output
    assert "it lacks column 'B'" in done.output
    assert "it has column 'Z'" in done.output
    assert "column 'A' is string, in the data int" in done.output
    found = {handle.name: handle.has_mock for handle in session.datasets()}
    assert found == {"heart": True, "odd": True, "toy": False}
    assert '"mock"' in data_command(node, "list", "--json").output


@pytest.mark.feature("PS-18")
def test_contacts_are_a_list_of_name_role_and_address(session: Session, node: Node) -> None:
    table = write_table(node.folder / "asked.csv", A=[1, 2])
    eve, ann = "Eve Smith, data steward, eve@hospital.example", "Ann, ann@hospital.example"
    done = data_command(node, "add", "asked", str(table), "--contact", eve, "--contact", ann)
    assert done.exit_code == 0, done.output
    contacts = (
        Contact(name="Eve Smith", role="data steward", address="eve@hospital.example"),
        Contact(name="Ann", address="ann@hospital.example"),
    )
    plain = [{"name": c.name, "role": c.role, "address": c.address} for c in contacts]
    (handle,) = session.datasets(name="asked")
    assert (handle.contacts, handle.describe()["contacts"]) == (contacts, plain)
    words = ("Eve Smith (data steward, eve@hospital.example)", "Ann (ann@hospital.example)")
    assert handle.contact == " or ".join(words)
    assert json.loads(data_command(node, "show", "asked", "--json").output)["contacts"] == plain
    shown = data_command(node, "show", "asked").output
    assert all(each in shown and each in handle._repr_html_() for each in words)
    with pytest.raises(SpecError, match=r"NAME, ROLE, ADDRESS.*a, b, c, d"):
        describe_dataset("more", table, contact="a, b, c, d")
    # of the node: of a dataset without contacts of its own, and what its owner is asked for
    node.config = NodeConfig(approval="on", threads=1, contact=f"{eve}; {ann}")
    wait_for(lambda: session.nodes()[0].contacts == contacts)
    assert session.nodes()[0].contact == " or ".join(words)
    assert session.datasets(name="toy")[0].contacts == contacts
    assert session.datasets(name="heart")[0].contact == "bo@hospital.example"
    assert {check.contact for check in sums_job(session, data="node1/toy").check()} == {" or ".join(words)}


def test_a_dataset_of_several_files_has_description_tags_and_contact(session: Session, node: Node) -> None:
    folder = node.folder / "years"
    folder.mkdir()
    write_table(folder / "2023.csv", A=[1, 2], B=[3, 4])
    write_table(folder / "2024.csv", A=[5], B=[6])
    words = ["add", "years", str(folder), "--tags", "heart,all", "--description", "Two years"]
    done = data_command(node, *words, "--contact", "eve@hospital.example")
    assert done.exit_code == 0, done.output
    shown = data_command(node, "show", "years").output
    for text in ("Two years", "eve@hospital.example", "heart, all", str(folder)):
        assert text in shown
    (handle,) = session.datasets(tags=["all"])
    assert (handle.description, handle.contact, handle.num_rows) == ("Two years", "eve@hospital.example", 3)
    assert sums_job(session, data="node1/years").run(progress=False).value == {"A": 8, "B": 13}


@pytest.mark.feature("TB-24")
def test_the_data_that_went_in_are_told_with_their_version(session: Session, node: Node) -> None:
    path = write_table(node.folder / "changing.csv", A=[1])
    with node.database() as database:
        Datasets(database).add(describe_dataset("changing", path))
    first = sums_job(session, data="node1/changing")
    assert first.run(progress=False).value == {"A": 1}
    (used,) = first.data
    assert (used.node, used.name) == ("node1", "changing")
    assert len(used.version) == 64
    write_table(path, A=[2])
    wait_for(lambda: session.datasets(name="changing")[0].version != used.version)
    second = sums_job(session, data="node1/changing")
    assert second.run(progress=False).value == {"A": 2}
    assert second.data[0].version != used.version
    assert first.data[0].version == used.version


@pytest.mark.feature("PS-22")
def test_a_grant_for_one_run_is_used_up_by_it(session: Session, node: Node) -> None:
    node.config = NodeConfig(approval="on", threads=1)
    wait_for(lambda: sums_job(session).check()[0].grant == "pending")
    first = sums_job(session)
    assert first.request()
    node.decide(limits=GrantLimits(runs=1))
    assert first.run(progress=False).value["A"] == 6
    second = sums_job(session)
    assert second.check()[0].grant == "pending"
    second.request()
    with node.database() as database:
        from fedjob.node.grants.decisions import Grants

        assert len(Grants(database).all("pending")) == 1
    # another function, or other data, was never granted
    assert Job(remote.column_mean, data="node1/heart", session=session).check()[0].grant == "pending"
    assert sums_job(session, use="mock").check()[0].grant == "pending"


@pytest.mark.feature("PS-60")
def test_a_typo_shows_its_whole_trace_on_the_mock_and_a_wrong_column_is_told_by_check(
    session: Session,
) -> None:
    job = Job(remote.fails, data="node1/heart", use="mock", session=session)
    with pytest.raises(JobFailed, match="object has no attribute 'mysum'") as on_mock:
        job.run(progress=False)
    (excerpt,) = on_mock.value.__notes__
    assert excerpt.startswith("AttributeError at node1 in ")
    assert next(line for line in excerpt.splitlines() if line.startswith("---->")).endswith("dataset.mysum()")
    wait_for(lambda: "AttributeError" in str(job.logs()))
    logs = str(job.logs())
    assert "dataset.mysum()" in logs
    assert "object has no attribute 'mysum'" in logs
    checked = sums_job(session).check(schema={"age": "float"})
    assert not checked.ok
    assert "age" in repr(checked)
    private = Job(remote.fails, data="node1/heart", session=session)
    with pytest.raises(JobFailed) as on_private:
        private.run(progress=False)
    assert on_private.value.__notes__ == [excerpt]
    assert "mysum" not in str(on_private.value)
    assert "mysum" not in str(private.logs())


def test_a_rehearsal_runs_on_the_mocks_and_files_its_outcome_with_the_request(
    session: Session, node: Node
) -> None:
    node.config = NodeConfig(approval="on", threads=1)
    wait_for(lambda: sums_job(session).check()[0].grant == "pending")
    mock = sums_job(session, use="mock")
    mock.request()
    node.decide()
    job = sums_job(session, name="hearts", note="for the paper")
    rehearsal = job.rehearse()
    assert rehearsal.success
    assert rehearsal.job.result.value["A"] == 4
    with node.database() as database:
        from fedjob.node.grants.decisions import Grants

        noted = [grant.asked.note for grant in Grants(database).all("pending")]
    assert any(note.startswith("for the paper\nRehearsed on the mock of node1") for note in noted)
    assert list(rehearsal.requests) == ["node1"]
    node.decide()
    assert job.run(progress=False).value["A"] == 6
    with pytest.raises(JobError, match="only a draft"):
        job.rehearse()


def test_a_rehearsal_that_fails_asks_nobody(session: Session, node: Node) -> None:
    job = Job(remote.fails, data="node1/heart", session=session)
    rehearsal = job.rehearse()
    assert not rehearsal.success
    assert "AttributeError" in rehearsal.outcome
    assert rehearsal.requests == {}
    assert job.state == "draft"


def test_training_on_a_mock_is_no_different(tmp_path: Path) -> None:
    columns = {name: [0.1, 0.5, 0.9, 0.2] * 4 for name in "abcdy"}
    data = {
        "path": write_table(tmp_path / "p.csv", **columns),
        "mock": write_table(tmp_path / "m.csv", **{k: v[:8] for k, v in columns.items()}),
    }
    args = {name: item for name, item in TRAINING.items() if name != "test_metric"} | {
        "num_updates": 2,
        "batch_size": 4,
    }
    job = Job(
        FedAvg(),
        training_plan=Linear,
        data=data,
        use="mock",
        nodes="local",
        home=tmp_path,
        training_args=args,
    )
    job.run(progress=False)
    assert job.result.params
    assert fedjob.function is not None
    assert isinstance(job.result.history, pandas.DataFrame)
