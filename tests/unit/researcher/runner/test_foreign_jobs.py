"""A job's folder that was put into a home, or changed in it, is never begun by whoever looks at the home."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import SubmitError
from fedjob.common.lifecycle import State
from fedjob.common.types import new_job_id
from fedjob.identity.keys import SealKey
from fedjob.researcher.runner.revival import begin_again, look, resume_all
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord, load_record, utc_now
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.researcher.storage.submissions import is_sealed, seal_job
from fedjob.researcher.storage.transitions import walk

begun: list[Path] = []


def start(folder: JobFolder, lock: int) -> int:
    os.close(lock)
    begun.append(folder.path)
    return 1


def submitted(home: Path) -> JobFolder:
    """A submitted job whose runner died before it began."""
    folder = JobFolder(home / "jobs" / new_job_id())
    folder.create()
    JobSpec(id=folder.path.name, protocol=Component(name="fedavg"), rounds=2, seed=1).save(folder.spec)
    folder.plan.write_text("class Net:\n    pass\n")
    JobRecord(created=utc_now()).save(folder.record)
    seal_job(folder)
    walk(folder, replace(load_record(folder.record), detached=True), [State.WAITING])
    return folder


def another_plan(folder: JobFolder) -> None:
    folder.plan.write_text("import os\n")


def another_plan_of_a_node(folder: JobFolder) -> None:
    (folder.path / "plans").mkdir(exist_ok=True)
    (folder.path / "plans" / f"{'ab' * 32}.py").write_text("import os\n")


def another_spec(folder: JobFolder) -> None:
    JobSpec(id=folder.path.name, protocol=Component(name="own"), rounds=2, seed=1).save(folder.spec)


def no_seal(folder: JobFolder) -> None:
    folder.seal.unlink()


def half_a_seal(folder: JobFolder) -> None:
    folder.seal.write_text(folder.seal.read_text()[:64])


def a_seal_of_another_home(folder: JobFolder) -> None:
    other = folder.path.parents[2] / "mallory" / "jobs" / folder.path.name
    shutil.copytree(folder.path, other)
    seal_job(JobFolder(other))
    shutil.copyfile(JobFolder(other).seal, folder.seal)


def another_name(folder: JobFolder) -> None:
    folder.path.rename(folder.path.with_name(new_job_id()))


CHANGES: list[Callable[[JobFolder], None]] = [
    another_plan,
    another_plan_of_a_node,
    another_spec,
    no_seal,
    half_a_seal,
    a_seal_of_another_home,
    another_name,
]


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_what_was_not_submitted_from_this_home_as_it_is_begins_at_no_look(
    tmp_path: Path, change: Callable[[JobFolder], None], caplog: pytest.LogCaptureFixture
) -> None:
    begun.clear()
    home = tmp_path / "ann"
    change(submitted(home))
    [path] = (home / "jobs").glob("job_*")
    folder = JobFolder(path)
    with caplog.at_level(logging.WARNING):
        assert look(folder, start).state == State.WAITING
        look(folder, start)
    assert caplog.text.count("was not submitted from it") == 1
    with pytest.raises(SubmitError, match=r"Job\.resume"):
        begin_again(folder, start, at_once=True)
    assert all("was not submitted from it" in each.done for each in resume_all(home, lost=True, start=start))
    assert begun == []
    assert not folder.is_held()


def test_a_folder_from_another_home_begins_at_no_look_and_an_own_one_does(tmp_path: Path) -> None:
    begun.clear()
    theirs = submitted(tmp_path / "mallory")
    for has_a_key in (False, True):
        home = tmp_path / f"ann_{has_a_key}"
        if has_a_key:
            SealKey(home)
        copy = JobFolder(home / "jobs" / theirs.path.name)
        shutil.copytree(theirs.path, copy.path)
        assert not is_sealed(copy)
        look(copy, start)
        assert begun == []
    look(theirs, start)
    assert begun == [theirs.path]
