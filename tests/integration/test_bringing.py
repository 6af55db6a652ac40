"""Data that a researcher brings: they arrive as they were, read-only, and are gone at the end."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob import Job, JobFailed
from fedjob.common.errors import DecodeError, ObjectMissing, ObjectTooLarge, SpecError
from fedjob.data.archive import pack_data, unpack_data, unpacked_once
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.repository.parts import ref_of
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.folder import JobFolder
from tests import remote
from tests.integration.nodes import Federation
from tests.integration.test_functions import write_table
from tests.integration.test_jobs_over_memory import open_session
from tests.integration.test_node_queue import configure

NAMES = ("node1", "node2")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("bringing"))
    for name in NAMES:
        node = found.node(name, NodeConfig(approval="off", threads=1))
        path = write_table(node.folder / "heart.csv", A=[1, 2, 3], B=[10, 20, 30])
        with node.database() as database:
            Datasets(database).add(describe_dataset("heart", path, tags=["heart"]))
        node.start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("L", (4, 4), number * 50).save(folder / f"{number}.png")
    return folder


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(what: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.mark.feature("TB-11")
def test_a_folder_of_pictures_arrives_as_it_is_and_is_gone_afterwards(
    session: Session, pictures: Path, federation: Federation
) -> None:
    job = Job(remote.travelled, data=pictures, nodes=["node1"], session=session)
    found = job.run(progress=False).value
    assert found["files"] == {f"pictures/{path.name}": hash_of(path) for path in pictures.iterdir()}
    assert found["writable"] == []
    assert str(federation.nodes[0].home.root) in found["place"]
    wait_for(lambda: not Path(found["place"]).exists())
    assert job.data[0].brought


@pytest.mark.feature("TB-09", "TB-45")
def test_every_form_of_data_resolves_to_one_dataset_at_each_node(session: Session, tmp_path: Path) -> None:
    local = write_table(tmp_path / "local.csv", A=[5], B=[7])

    def used(data: Any, **more: Any) -> dict[str, str]:
        job = Job(remote.sums, data=data, session=session, **more)
        job.run(progress=False)
        return {entry.node: entry.name for entry in job.data}

    handle = session.datasets(name="heart", timeout_s=30)[0]
    assert used(handle) == {"node1": "heart"}
    assert used("node2/heart") == {"node2": "heart"}
    assert used({"tags": ["heart"]}) == {"node1": "heart", "node2": "heart"}
    assert used(local) == {"node1": "local.csv", "node2": "local.csv"}
    assert used(str(local), nodes=["node2"]) == {"node2": "local.csv"}
    assert used(["node1/heart", str(local)]) == {"node1": "heart", "node2": "local.csv"}
    with local.open("rb") as file:
        job = Job(remote.sums, data=file, nodes=["node1"], session=session)
    assert job.run(progress=False).value == {"A": 5, "B": 7}


@pytest.mark.feature("TB-45")
def test_an_open_picture_travels_and_is_temporary(session: Session, pictures: Path) -> None:
    with (pictures / "1.png").open("rb") as file:
        job = Job(remote.travelled, data=file, nodes=["node1"], session=session)
    ref = ref_of(JobFolder(job.folder).brought)
    value = job.run(progress=False).value
    assert value["files"] == {"1.png": hash_of(pictures / "1.png")}
    assert not session.repository.exists(ref)


@pytest.mark.feature("TB-10")
@pytest.mark.parametrize("end", ["completed", "killed", "failed"])
def test_what_is_brought_is_at_the_hub_while_the_job_runs_and_not_after(
    session: Session, federation: Federation, tmp_path: Path, end: str
) -> None:
    path = write_table(tmp_path / "local.csv", A=[1, 2])
    function = remote.fails_later if end == "failed" else remote.waits
    job = Job(function.bind(seconds=6.0), data=path, nodes=["node1"], session=session)
    ref = ref_of(JobFolder(job.folder).brought)
    seen: list[int] = []

    def get() -> int:
        return len(session.repository.get_bytes(ref, limit_bytes=1 << 20))

    def act() -> None:
        seen.append(get())
        if end == "killed":
            job.kill()

    hook = threading.Thread(target=lambda: _look(job, act))
    hook.start()
    if end == "killed":
        with pytest.raises(JobFailed, match="kill") as caught:
            job.run(progress=False)
        assert caught.value.outcome == "killed"
    elif end == "failed":
        with pytest.raises(JobFailed):
            job.run(progress=False)
    else:
        job.run(progress=False)
    hook.join(60)
    assert job.state == end
    assert seen == [ref.size_bytes]
    with pytest.raises(ObjectMissing):
        get()
    wait_for(lambda: not (federation.nodes[0].home.brought / job.id).exists())


def _look(job: Job, act: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while job.state != "running" and not job.finished and time.monotonic() < deadline:
        time.sleep(0.02)
    if not job.finished:
        act()


@pytest.mark.feature("NV-12")
def test_a_clone_runs_after_the_source_files_are_gone(session: Session, tmp_path: Path) -> None:
    path = write_table(tmp_path / "local.csv", A=[4, 5])
    plan = tmp_path / "mine.py"
    plan.write_text(
        "import fedjob\n\n@fedjob.function\ndef total(dataset):\n    return int(dataset.frame().A.sum())\n"
    )
    job = Job(f"{plan}:total", data=path, nodes=["node1"], session=session)
    assert job.run(progress=False).value == 9
    path.unlink()
    plan.unlink()
    again = job.clone()
    assert again.run(progress=False).value == 9


def test_what_is_not_there_or_too_much_is_said_before_anything_starts(
    session: Session, tmp_path: Path
) -> None:
    for data in (tmp_path / "none.csv", str(tmp_path / "none.csv"), "./none.csv"):
        with pytest.raises(SpecError, match="no such file"):
            Job(remote.sums, data=data, session=session)
    one, two = (write_table(tmp_path / f"{name}.csv", A=[1]) for name in ("one", "two"))
    with pytest.raises(SpecError, match="one folder"):
        Job(remote.sums, data=[one, two], session=session)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="nothing to bring"):
        Job(remote.sums, data=tmp_path / "empty", session=session)
    with one.open() as text, pytest.raises(SpecError, match="for bytes"):
        Job(remote.sums, data=text, session=session)
    assert not list(session.home.glob("jobs/*"))


def test_a_node_that_takes_no_data_refuses_and_so_does_one_with_a_limit(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    node = federation.nodes[1]
    before = node.config
    path = write_table(tmp_path / "local.csv", A=list(range(300_000)))
    try:
        configure(node, NodeConfig(approval="off", threads=1, bring="off"))
        with pytest.raises(JobFailed, match="bring"):
            Job(remote.sums, data=path, nodes=["node2"], session=session).run(progress=False)
        configure(node, NodeConfig(approval="off", threads=1, bring_mb=1))
        with pytest.raises(JobFailed, match=r"too_large|more than"):
            Job(remote.sums, data=path, nodes=["node2"], session=session).run(progress=False)
    finally:
        configure(node, before)


class TestArchives:
    """What is packed, and what is refused."""

    def test_the_same_content_is_the_same_bytes(self, pictures: Path, tmp_path: Path) -> None:
        pack_data(pictures, tmp_path / "a.zip")
        for path in pictures.iterdir():
            path.touch()
        pack_data(pictures, tmp_path / "b.zip")
        assert hash_of(tmp_path / "a.zip") == hash_of(tmp_path / "b.zip")

    @pytest.mark.parametrize(
        "name",
        ["../out.txt", "/out.txt", "a/../../out.txt", "a//b", "C:\\out", "a\\b", "", "./a", "a/.", "x\x00y"],
    )
    def test_no_name_leads_out(self, tmp_path: Path, name: str) -> None:
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = entry.orig_filename = name
            archive.writestr(entry, b"x")
        with pytest.raises(DecodeError):
            unpack_data(tmp_path / "odd.zip", tmp_path / "out", limit_bytes=1000)
        assert not (tmp_path / "out").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.zip"]

    def test_no_link_comes_in(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
            entry = zipfile.ZipInfo("link")
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, b"/etc/passwd")
        with pytest.raises(DecodeError, match="link"):
            unpack_data(tmp_path / "odd.zip", tmp_path / "out", limit_bytes=1000)

    def test_a_bomb_is_refused_whatever_it_says_of_itself(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", b"\0" * 5_000_000)
        with pytest.raises(ObjectTooLarge):
            unpack_data(tmp_path / "bomb.zip", tmp_path / "out", limit_bytes=1_000_000)
        raw = (tmp_path / "bomb.zip").read_bytes()
        size = (5_000_000).to_bytes(4, "little")
        (tmp_path / "liar.zip").write_bytes(raw.replace(size, (900).to_bytes(4, "little")))
        with pytest.raises((ObjectTooLarge, DecodeError)):
            unpack_data(tmp_path / "liar.zip", tmp_path / "out", limit_bytes=1_000_000)
        assert not (tmp_path / "out").exists()

    def test_an_archive_is_fetched_once_and_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "table.csv").write_text("a,b\n")
        fetched: list[Path] = []

        def fetch(path: Path) -> None:
            fetched.append(path)
            pack_data(tmp_path / "table.csv", path)

        folder = tmp_path / "home" / "sha"
        for _ in range(2):
            found = unpacked_once(folder, fetch, limit_bytes=1000)
            assert found == folder / "table.csv"
            assert found.read_text() == "a,b\n"
        assert len(fetched) == 1
        assert [path.name for path in folder.parent.iterdir()] == ["sha"]
        assert (folder.stat().st_mode & 0o777, found.stat().st_mode & 0o777) == (0o500, 0o400)

    def test_nothing_is_left_of_an_archive_that_unpacks_to_too_much(self, tmp_path: Path) -> None:
        (tmp_path / "table.csv").write_text("a,b\n" * 1000)
        with pytest.raises(ObjectTooLarge):
            unpacked_once(
                tmp_path / "home" / "sha",
                lambda path: pack_data(tmp_path / "table.csv", path),
                limit_bytes=100,
            )
        assert list((tmp_path / "home").iterdir()) == []

    def test_what_is_no_archive_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "odd.zip").write_bytes(b"PK" + b"nothing" * 50)
        with pytest.raises(DecodeError):
            unpack_data(tmp_path / "odd.zip", tmp_path / "out", limit_bytes=1000)

    def test_two_names_that_differ_in_case_alone_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
            archive.writestr("top/a", b"1")
            archive.writestr("top/A", b"2")
        with pytest.raises(DecodeError):
            unpack_data(tmp_path / "odd.zip", tmp_path / "out", limit_bytes=1000)

    def test_a_link_in_a_folder_is_not_followed(self, pictures: Path, tmp_path: Path) -> None:
        (pictures / "link").symlink_to("/etc/hostname")
        with pytest.raises(SpecError, match="no plain file"):
            pack_data(pictures, tmp_path / "a.zip")
