"""Folders and files that users name: what fedjob writes there, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fedjob import FedAvg, Job
from fedjob.common.errors import (
    BreakpointError,
    BreakpointMissing,
    ConfigError,
    FedjobError,
    NotReady,
    SpecError,
)
from fedjob.researcher.results.download import MARK, download
from fedjob.researcher.storage.folder import JobFolder
from tests.data import LOSS_ALONE, TRAINING, make_points
from tests.foreign import accept
from tests.plans import Linear, Tiny


def make_job(folder: Path, **changes: object) -> Job:
    data = {f"clinic-{k}": str(make_points(folder / f"{k}.npz", 40, k)) for k in range(2)}
    arguments: dict[str, object] = {"training_args": TRAINING, "rounds": 4, "seed": 3}
    plan = changes.pop("training_plan", Tiny)
    home = folder / "home"
    return Job(
        FedAvg(),
        training_plan=plan,
        data=data,
        nodes="local",
        home=home,
        **{**arguments, **changes},  # type: ignore[arg-type]
    )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = make_job(tmp_path)
    yield made
    made.close("killed")


def one_round(job: Job, round_: int) -> None:
    job.start_nodes_training_round(round_)
    job.aggregate()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@contextmanager
def as_somebody_without_rights(folder: Path) -> Iterator[None]:
    """Make a folder read-only, for the superuser too, who would be let in."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    above = [path for path in folder.parents if path.stat().st_uid == 0 and root]
    modes = {path: path.stat().st_mode for path in above}
    for path in above:
        path.chmod(modes[path] | 0o055)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)
        folder.chmod(0o755)


class TestBreakpoints:
    @pytest.mark.feature("FB-41")
    def test_a_breakpoint_gets_a_new_folder_of_its_own_wherever_it_is_saved(
        self, job: Job, tmp_path: Path
    ) -> None:
        one_round(job, 1)
        new, empty, used = tmp_path / "a" / "new", tmp_path / "empty", tmp_path / "used"
        empty.mkdir()
        (used / "round_0001").mkdir(parents=True)  # even under the name that it would have
        (used / "round_0001" / "thesis.tex").write_text("years of work")
        (used / "data.csv").write_text("x")
        before = tree(used)
        for folder in (new, empty, used):
            state = job.save_state_breakpoint(folder)
            saved = Path(state["path"])
            assert saved.parent == folder
            assert (saved / "manifest.mpk").exists()
            assert accept(saved, home=tmp_path / "again").position.round == 1
        after = tree(used)
        assert {name: after[name] for name in before} == before
        twice = job.save_state_breakpoint(used)
        assert Path(twice["path"]).name not in ("round_0001", saved.name)
        assert saved.exists()

    @pytest.mark.feature("FB-41")
    def test_the_state_is_plain_data_with_the_path(self, job: Job, tmp_path: Path) -> None:
        one_round(job, 1)
        one_round(job, 2)
        state = job.save_state_breakpoint(tmp_path / "bp")
        assert json.loads(json.dumps(state))["path"] == state["path"]
        assert (state["job_id"], state["round"], state["researcher_id"]) == (job.id, 2, job.spec.researcher)
        assert Path(state["model_params_path"]).stat().st_size > 100
        assert sorted(state["training_replies"]) == [1, 2]
        assert [reply["node_id"] for reply in state["training_replies"][2]] == ["clinic-0", "clinic-1"]
        assert state["node_state"] == dict(job.position.node_states)

    @pytest.mark.feature("FB-41")
    def test_a_file_and_a_folder_that_may_not_be_written_to_say_what_to_do(
        self, job: Job, tmp_path: Path
    ) -> None:
        one_round(job, 1)
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(BreakpointError, match=r"it is a file.*give a folder"):
                job.save_state_breakpoint(path)
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.feature("FB-41")
    def test_a_read_only_folder_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        from fedjob.common.types import new_job_id
        from fedjob.researcher.storage.breakpoints import save_breakpoint
        from fedjob.researcher.storage.position import Position
        from fedjob.researcher.storage.spec import Component, JobSpec

        folder = JobFolder(tmp_path / "jobs" / new_job_id())
        folder.create()
        JobSpec(id=folder.path.name, protocol=Component(name="fedavg"), rounds=9, seed=1).save(folder.spec)
        closed = tmp_path / "closed"
        closed.mkdir()
        position = Position(round=1, state={"round": 1}, node_states={}, rows=(), ledger=(), training_args={})
        with (
            as_somebody_without_rights(closed),
            pytest.raises(FedjobError, match=r"closed.*[Pp]ermission.*give a folder that you may write to"),
        ):
            save_breakpoint(folder, position, closed)
        assert list(closed.iterdir()) == []

    @pytest.mark.feature("FB-44")
    @pytest.mark.parametrize("how", ["state", "path", "folder"])
    def test_loading_brings_back_what_there_was_and_nothing_later(
        self, job: Job, tmp_path: Path, how: str
    ) -> None:
        one_round(job, 1)
        one_round(job, 2)
        params = {name: job.position.state["params"][name].clone() for name in job.position.state["params"]}
        replied = {reply.node_id: reply.params for reply in job.training_replies[2]}
        states = dict(job.position.node_states)
        state = job.save_state_breakpoint(tmp_path / "bp")
        one_round(job, 3)
        job.start_nodes_training_round(4)  # not taken up: of a later round
        job.load_state_breakpoint({"state": state, "path": state["path"], "folder": tmp_path / "bp"}[how])
        shutil.rmtree(tmp_path / "bp")
        assert job.id == state["job_id"]
        assert (job.position.round, dict(job.position.node_states)) == (2, states)
        assert all(torch.equal(job.position.state["params"][name], params[name]) for name in params)
        assert sorted(job.training_replies) == [1, 2]
        for reply in job.training_replies[2]:
            expected = replied[reply.node_id]
            assert expected is not None
            assert reply.params is not None
            assert all(torch.equal(reply.params[name], expected[name]) for name in expected)
        with pytest.raises(NotReady, match="no replies to aggregate"):  # those of round 4 are gone
            job.aggregate()
        job.update_parameters()
        assert job.position.round == 2
        one_round(job, 3)
        assert sorted(job.training_replies) == [1, 2, 3]

    @pytest.mark.feature("FB-44")
    def test_loading_by_another_handle_of_the_job_brings_the_replies_back(self, tmp_path: Path) -> None:
        first = make_job(tmp_path)
        one_round(first, 1)
        state = first.save_state_breakpoint(tmp_path / "bp")
        one_round(first, 2)
        first.close("killed")
        again = Job.resume(state["path"], home=tmp_path / "home")
        again.load_state_breakpoint(state)
        assert {round_: len(replies) for round_, replies in again.training_replies.items()} == {1: 2}
        assert [reply.sample_size for reply in again.training_replies[1]] == [
            reply.sample_size for reply in first.training_replies[1]
        ]
        first.load_state_breakpoint(first.breakpoints[0])  # one of the job's own
        assert sorted(first.training_replies) == [1]

    def test_parameters_of_a_reply_that_are_gone_are_said_to_be_gone(self, job: Job) -> None:
        one_round(job, 1)
        one_round(job, 2)
        with pytest.raises(NotReady, match="keep=True"):
            _ = job.training_replies[1][0].params

    def test_what_is_no_state_of_this_job_is_refused(self, job: Job, tmp_path: Path) -> None:
        one_round(job, 1)
        with pytest.raises(SpecError, match="has no path, but job_id"):
            job.load_state_breakpoint({"job_id": job.id})
        job.save_state_breakpoint(tmp_path / "bp")
        job.save_state_breakpoint(tmp_path / "bp")
        with pytest.raises(BreakpointMissing, match="several breakpoints, round_0001, round_0001_2"):
            job.load_state_breakpoint(tmp_path / "bp")


@pytest.mark.feature("NV-63")
def test_a_download_replaces_only_what_a_download_wrote(tmp_path: Path) -> None:
    job = make_job(tmp_path, rounds=2)
    job.run(progress=False)
    folder, out = JobFolder(job.folder), tmp_path / "out"
    files = download(folder, out)
    (out / "notes.txt").write_text("mine")
    (out / "rounds" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        download(folder, out)
    shutil.rmtree(job.breakpoints[0])
    again = download(folder, out, force=True)
    assert set(again) < set(files)
    assert not (out / "rounds" / "round_0001").exists()
    assert (out / "notes.txt").read_text() == (out / "rounds" / "mine.txt").read_text() == "mine"
    assert {path for path in out.iterdir() if path.name.startswith(".")} == {out / MARK}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_download_over_other_files_writes_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, rounds=1)
    job.run(progress=False)
    folder, project = JobFolder(job.folder), tmp_path / "project"
    project.mkdir()
    (project / "plan.py").write_text("my plan")
    before = tree(project)
    with pytest.raises(ConfigError, match=r"plan\.py, which fedjob did not write"):
        download(folder, project, force=True)
    assert tree(project) == before
    (project / "plan.py").rename(project / "my_plan.py")
    download(folder, project, force=True)
    (project / "metrics.csv").write_text("edited")
    with pytest.raises(ConfigError, match=r"metrics\.csv.*changed since"):
        download(folder, project, force=True)
    assert (project / "metrics.csv").read_text() == "edited"
    with pytest.raises(ConfigError, match="is a file"):
        download(folder, project / "my_plan.py", force=True)


@pytest.mark.feature("FB-09")
def test_kept_files_never_replace_others_of_their_names(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "plan.py").write_text("my plan")
    (kept / "round_0001_params.safetensors").write_bytes(b"mine")
    job = make_job(tmp_path, rounds=2, keep_files_dir=kept)
    job.run(progress=False)
    assert (kept / "plan.py").read_text() == "my plan"
    assert (kept / "plan_2.py").read_text() == job.training_plan_file.read_text()
    assert (kept / "round_0001_params.safetensors").read_bytes() == b"mine"
    assert (kept / "round_0001_params_2.safetensors").stat().st_size > 100
    assert not (kept / "plan_3.py").exists()


def test_a_job_is_not_written_over_a_file_unless_it_is_asked_to(tmp_path: Path) -> None:
    job = make_job(tmp_path, training_plan=Linear, training_args=LOSS_ALONE)
    path = tmp_path / "job.json"
    path.write_text("mine")
    with pytest.raises(SpecError, match="exists already"):
        job.to_json(path)
    assert path.read_text() == "mine"
    job.to_json(path, force=True)
    assert json.loads(path.read_text())["operation"]


def test_a_result_that_ends_twice_leaves_what_lies_beside_it(tmp_path: Path) -> None:
    job = make_job(tmp_path, rounds=1)
    job.run(progress=False)
    (job.folder / "result" / "files").mkdir()
    (job.folder / "result" / "files" / "mine.txt").write_text("mine")
    more = Job.resume(job.breakpoints[-1], rounds=2)
    more.run(progress=False)
    assert (job.folder / "result" / "files" / "mine.txt").read_text() == "mine"
