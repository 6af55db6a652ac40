"""Jobs that are resumed: by every door, whoever ran them before and however that ended, never from half a breakpoint."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedjob import EarlyStopping, FedAvg, Hook, Job, simulate
from fedjob.cli import cli
from fedjob.common.errors import JobError, SpecError
from fedjob.researcher.storage.breakpoints import hash_file, load_breakpoint
from tests import preloaded
from tests.data import TRAINING, make_points
from tests.foreign import accept
from tests.processes import wait_until
from tests.slow import gated_plan

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 90.0
ROUNDS = 4


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process and the runners compute with as many threads: then they compute the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def make(tmp_path: Path, gate: Path) -> Callable[..., Job]:
    """Return what makes a job that stops in its third round until the gate is there."""
    data = str(make_points(tmp_path / "points.npz", 60, 1))
    plan = gated_plan(tmp_path, gate, after=2)

    def make_job(**changes: object) -> Job:
        arguments: dict[str, object] = {
            "training_plan": plan,
            "data": data,
            "nodes": "local",
            "training_args": TRAINING,
            "rounds": ROUNDS,
            "seed": 3,
            "home": tmp_path / "home",
        }
        return Job(FedAvg(), **{**arguments, **changes})  # type: ignore[arg-type]

    return make_job


@pytest.fixture
def whole(make: Callable[..., Job], gate: Path) -> Job:
    """Return a job that nothing interrupted."""
    gate.touch()
    job = make()
    job.run(progress=False)
    return job


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def rounds_of(job: Job) -> list[int]:
    return [event.round for event in job.events() if event.type == "round"]


def orphan(make: Callable[..., Job], gate: Path) -> Job:
    """Submit a job and kill its runner while it computes the third round."""
    gate.unlink(missing_ok=True)
    job = make().submit()
    wait_until(lambda: len(rounds_of(job)) == 2, timeout_s=PATIENCE_S, what="two rounds")
    bereave(job)
    gate.touch()
    return job


def bereave(job: Job) -> None:
    """Kill the process that runs a job."""
    os.kill(job._folder.holder(), signal.SIGKILL)
    wait_until(lambda: not job._folder.is_held(), timeout_s=30, what="the lock to be free")


def by_running(job: Job) -> Job:
    job.run(progress=False)
    return job


def by_submitting(job: Job) -> Job:
    return job.submit().wait(timeout_s=PATIENCE_S, silent=True)


def by_restarting(job: Job) -> Job:
    return job.restart().wait(timeout_s=PATIENCE_S, silent=True)


DOORS = pytest.mark.parametrize("door", [by_running, by_submitting, by_restarting])


@DOORS
@pytest.mark.parametrize("begin", [None, 1])
def test_a_job_whose_runner_was_killed_goes_on_by_every_door_from_where_it_was_resumed(
    make: Callable[..., Job], whole: Job, gate: Path, door: Callable[[Job], Job], begin: int | None
) -> None:
    job = orphan(make, gate)
    again = door(Job.resume(job.folder if begin is None else job.breakpoints[begin - 1]))
    assert (again.id, again.state, again.attempts) == (job.id, "completed", 2)
    assert [(past.state, past.reason) for past in again.record.past] == [("lost", "runner_died")]
    assert rounds_of(again) == [1, 2, *range((begin or 2) + 1, ROUNDS + 1)]
    assert digest(again) == digest(whole)


def test_a_job_that_is_opened_and_run_goes_on_from_its_newest_breakpoint(
    make: Callable[..., Job], whole: Job, gate: Path
) -> None:
    job = Job.open(orphan(make, gate).folder)
    with pytest.raises(JobError, match="is lost: only a draft is submitted; restart or clone it"):
        job.submit()
    by_running(job)
    assert rounds_of(job) == [1, 2, 3, 4]
    assert digest(job) == digest(whole)


@pytest.mark.parametrize("nodes", ["local", simulate(workers=0), simulate(workers=1)], ids=repr)
def test_a_job_that_was_killed_is_run_again_by_the_same_program(
    make: Callable[..., Job], whole: Job, gate: Path, tmp_path: Path, nodes: object
) -> None:
    gate.unlink()
    job = make(nodes=nodes, data={"local": str(tmp_path / "points.npz")})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run, progress=False)
        wait_until(lambda: len(rounds_of(job)) == 2, timeout_s=PATIENCE_S, what="two rounds")
        assert job.kill()
        assert isinstance(running.exception(PATIENCE_S), (JobError, KeyboardInterrupt))
    gate.touch()
    by_running(job)
    assert (job.attempts, rounds_of(job)) == (2, [1, 2, 3, 4])
    assert digest(job) == digest(whole)


@DOORS
def test_a_completed_job_is_for_more_rounds_by_every_door(
    make: Callable[..., Job], whole: Job, door: Callable[[Job], Job]
) -> None:
    job = by_running(make(rounds=2))
    assert door(Job.resume(job.folder, rounds=ROUNDS)).attempts == 2
    assert rounds_of(job) == [1, 2, 3, 4]
    assert digest(job) == digest(whole)


def test_a_breakpoint_that_came_alone_is_submitted_and_its_hooks_are_those_that_were_given(
    whole: Job, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.move(whole.breakpoints[0], moved)
    with pytest.raises(SpecError, match="leave token out"):
        accept(moved, home=tmp_path / "other").submit(token="nightly")
    with pytest.raises(SpecError, match="lives in this process"):
        accept(moved, home=tmp_path / "other", hooks=[Mine()]).submit()
    job = by_submitting(accept(moved, home=tmp_path / "other", hooks=[EarlyStopping("loss", patience=90)]))
    assert (rounds_of(job), job.attempts) == ([3, 4], 1)
    assert digest(job) == digest(whole)
    assert [hook.name for hook in Job.open(job.folder).spec.hooks] == ["early_stopping"]


class Mine(Hook):
    name = "mine-alone"


@pytest.mark.parametrize("by", ["folder", "breakpoint"])
def test_a_job_that_runs_is_not_resumed_and_nothing_of_it_is_changed(
    make: Callable[..., Job], gate: Path, by: str
) -> None:
    job = make().submit()
    wait_until(lambda: len(rounds_of(job)) == 2, timeout_s=PATIENCE_S, what="two rounds")
    files = [job._folder.record, job._folder.spec, job._folder.plan]
    before = [(path.read_bytes(), path.stat().st_ino) for path in files]
    try:
        with pytest.raises(JobError, match=f"is being run by process {job._folder.holder()}"):
            Job.resume(job.folder if by == "folder" else job.breakpoints[0], rounds=9)
        assert [(path.read_bytes(), path.stat().st_ino) for path in files] == before
    finally:
        gate.touch()
        job.wait(timeout_s=PATIENCE_S, silent=True)
    assert rounds_of(job) == [1, 2, 3, 4]


def test_breakpoints_of_a_way_that_was_left_are_gone_once_the_new_way_has_its_first(whole: Job) -> None:
    folder = whole.folder
    assert [path.name for path in whole.breakpoints] == ["round_0002", "round_0003", "round_0004"]
    whole.restart(breakpoint=2, rounds=3).wait(timeout_s=PATIENCE_S, silent=True)
    assert [path.name for path in whole.breakpoints] == ["round_0002", "round_0003"]
    assert Job.resume(folder).position.round == 3


def test_an_attempt_from_a_named_breakpoint_that_dies_goes_on_from_its_own_after_a_reboot(
    make: Callable[..., Job], gate: Path, tmp_path: Path
) -> None:
    (tmp_path / "later").mkdir()
    plan = gated_plan(tmp_path / "later", gate, after=3)
    job = by_submitting(make(training_plan=plan, rounds=2, keep_breakpoints=1))
    job.restart(breakpoint=2, rounds=4)
    wait_until(
        lambda: [path.name for path in job.breakpoints] == ["round_0003"],
        timeout_s=PATIENCE_S,
        what="the named one to be gone",
    )
    bereave(job)
    gate.touch()
    done = CliRunner().invoke(cli, ["job", "resume-all", "--home", str(job.folder.parents[1])])
    assert "restarted from its last breakpoint" in done.output
    assert job.wait(timeout_s=PATIENCE_S, silent=True).success
    assert sorted({*rounds_of(job)}) == [1, 2, 3, 4]


CUT = """
import os, signal, sys
from fedjob import Job
job, at, num = Job.resume(sys.argv[1], rounds=5), sys.argv[2], 0
def watch(event, arguments):
    global num
    if event in ("os.remove", "os.rmdir", "os.rename") and "round_" in str(arguments) + where(arguments):
        num += 1
        if num == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
def where(arguments):
    folder = arguments[-1]
    return os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""
sys.addaudithook(watch)
job.run(progress=False)
"""


@pytest.mark.parametrize("keep", [1, 3])
def test_killed_while_old_breakpoints_are_removed_every_name_is_of_a_whole_one(
    make: Callable[..., Job], whole: Job, gate: Path, tmp_path: Path, keep: int
) -> None:
    start = by_running(make(rounds=3, keep_breakpoints=keep))
    num_killed = 0
    for at in range(1, 40, 3):
        folder = tmp_path / f"home{at}" / "jobs" / start.id
        shutil.copytree(start.folder.parents[1], folder.parents[1])
        words = [sys.executable, "-c", CUT, str(folder), str(at)]
        environment = {**os.environ, "FEDJOB_HOME": str(folder.parents[1])}
        done = preloaded.run(words, env=environment, timeout_s=PATIENCE_S, cwd=tmp_path)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        num_killed += done.returncode != 0
        named = Job.open(folder).breakpoints
        assert named
        for path in named:
            load_breakpoint(path)
        again = Job.resume(folder, rounds=ROUNDS + 2, home=folder.parents[1])
        by_running(again)
        assert list((folder / "breakpoints").glob(".*")) == [], "what the killed one left is removed"
        assert len(again.breakpoints) == keep
    assert num_killed > 3
    assert num_killed < 13, "not all of it was reached"
