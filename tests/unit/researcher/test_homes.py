"""The home of a job: the one that is connected, from the start; a folder that will not do is an error first."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fedjob import Job, Statistics
from fedjob.common.errors import ConfigError, FedjobError, NoSpace
from fedjob.common.types import new_job_id
from fedjob.researcher.connection.home import check_home
from fedjob.researcher.definition.draft import move_draft
from fedjob.researcher.storage.folder import job_folder


@pytest.mark.parametrize(("file", "role"), [("node.sqlite", "node"), ("hub.sqlite", "hub")])
def test_the_home_of_another_role_is_refused_before_anything_is_written(
    tmp_path: Path, file: str, role: str
) -> None:
    (tmp_path / file).touch()
    with pytest.raises(ConfigError, match=f"the home of a {role}"):
        Job(Statistics(mean="age"), data={"tags": ["heart"]}, home=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_a_home_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="can't be used as a researcher's home"):
            check_home(home)
    check_home(tmp_path / "new" / "home")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_the_researchers_own(tmp_path: Path) -> None:
    full = Path("/sys")  # a file system without a free byte
    with pytest.raises((NoSpace, ConfigError), match=r"own home|researcher's home"):
        check_home(full)


def test_a_job_that_is_refused_leaves_no_draft(tmp_path: Path) -> None:
    for arguments in ({"rounds": 0}, {"init": tmp_path / "none"}, {"artifacts": {"a": tmp_path / "none"}}):
        with pytest.raises(FedjobError):
            Job(Statistics(mean="age"), home=tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list((tmp_path / "jobs").glob("*"))


def test_a_draft_is_moved_from_one_file_system_to_another(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        job = Job(Statistics(mean="age"), data={"tags": ["heart"]}, home=tmp_path)
        source = job_folder(tmp_path, job.id)
        content = {p.relative_to(source.path): p.read_bytes() for p in source.path.rglob("*") if p.is_file()}
        assert os.stat(other).st_dev != os.stat(tmp_path).st_dev
        moved = move_draft(source, job_folder(Path(other), job.id))
        assert not source.path.exists()
        assert content == {
            p.relative_to(moved.path): p.read_bytes() for p in moved.path.rglob("*") if p.is_file()
        }


def test_a_draft_that_can_not_be_moved_stays(tmp_path: Path) -> None:
    job = Job(Statistics(mean="age"), data={"tags": ["heart"]}, home=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't move"):
        move_draft(job_folder(tmp_path, job.id), job_folder(tmp_path / "file", new_job_id()))
    assert job_folder(tmp_path, job.id).spec.exists()
