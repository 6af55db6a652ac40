"""Local jobs that are handed over to a process of their own: submit, wait, cancel, kill, restart, clone, delete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedjob import Cast, EarlyStopping, FedAvg, Hook, Job, JobFailed
from fedjob.cli import cli
from fedjob.common.config import set_config
from fedjob.common.errors import (
    JobError,
    NoSuchJob,
    NotFinished,
    NotReady,
    SpecError,
    SubmitError,
    TokenConflict,
    TokenDeleted,
    WaitTimeout,
)
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.runner.slots import Ticket
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.transitions import notice
from tests import preloaded
from tests.data import TRAINING, make_points
from tests.plans import Linear, Raises, Tiny
from tests.processes import PYTHON, wait_until
from tests.slow import gated_plan, slow_plan
from tests.slow import until as until_within

pytestmark = pytest.mark.timeout(300)

SEEN = ("id", "name", "params", "created", "owner", "data", "preprocess", "plan")
LOOKING = f"""
import json, sys
from pathlib import Path
from fedjob.researcher.jobs.session import HomeJobs

class Home(HomeJobs):
    home = Path(sys.argv[1])

kept, drafted = Home().find(id=sys.argv[2]).wait(silent=True), Home().find(id=sys.argv[3], state="draft")
seen = [{{name: str(getattr(job, name)) for name in {SEEN!r}}} for job in (kept, drafted)]
print(json.dumps([kept.state, *seen]))
"""

PATIENCE_S = 90.0
until = partial(until_within, timeout_s=PATIENCE_S)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process and the runners compute with as many threads: then they compute the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(tmp_path: Path, home: Path) -> Callable[..., Job]:
    data = str(make_points(tmp_path / "points.npz", 60, 1))

    def make_job(**changes: object) -> Job:
        if "slow" in changes:
            changes["training_plan"] = slow_plan(tmp_path, changes.pop("slow"))  # type: ignore[arg-type]
            changes["training_args"] = {"num_updates": 300, "batch_size": 16}
        arguments: dict[str, object] = {
            "training_plan": Tiny,
            "data": data,
            "nodes": "local",
            "training_args": TRAINING,
            "rounds": 2,
            "seed": 3,
            "home": home,
        }
        return Job(FedAvg(), **{**arguments, **changes})  # type: ignore[arg-type]

    return make_job


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def runner_of(job: Job) -> int:
    """Return the process id of a job's detached runner, once it holds the job's lock."""
    wait_until(job._folder.is_held, timeout_s=PATIENCE_S, what="a runner to take the job up")
    return job._folder.holder()


def run_python(text: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", text, *arguments]
    return preloaded.run(words, env=dict(os.environ), timeout_s=PATIENCE_S, cwd=cwd)


def python(text: str, *arguments: str, cwd: Path) -> str:
    done = run_python(text, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BUSY = 10.0
"""By how much longer than on an idle machine a call may take here: other tests run beside this one."""


@pytest.mark.feature("PS-01", "PS-02", "PS-32", "TB-22", "TB-23", "TB-34", "PS-42", "NV-21", "NV-36", "NV-41")
def test_a_submitted_job_outlives_the_process_that_made_it_and_ends_as_a_run_does(
    make: Callable[..., Job], tmp_path: Path, home: Path
) -> None:
    ran = make()
    ran.run(progress=False)
    job = make(props={"ticket": "X-1"}, name="kept")
    drafted = make(preprocess=[Cast(["age"], "int")], model_args={"width": 3}, owner={"org": "acme"})
    set_config(ResearcherConfig, home, "max_jobs", "1")
    slot = Ticket(home, "job_0", "2026-01-01T00:00:00Z")
    assert slot.take(1)
    began = time.monotonic()
    assert job.submit() is job  # although it can't begin yet
    assert time.monotonic() - began < 1.0 * BUSY
    assert job
    assert job.state in ("waiting", "queued")
    slot.close()
    state, *seen = json.loads(python(LOOKING, str(home), job.id, drafted.id, cwd=tmp_path))
    assert state == "completed"
    assert seen == [{name: str(getattr(one, name)) for name in SEEN} for one in (job, drafted)]
    assert "cast" in seen[1]["preprocess"]
    assert job.success
    assert digest(job) == digest(ran)
    assert set(job.result.params) == set(ran.result.params)
    record = job.record
    assert record.created <= record.submitted <= record.started <= record.finished
    assert record.created.endswith("Z")
    took = job.duration
    assert 0 < took == job.duration


@pytest.mark.feature("TB-48", "PS-54")
def test_waiting_tells_on_stderr_and_ends_with_the_jobs_end_or_with_the_time(
    make: Callable[..., Job], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotReady, match="draft"):
        make().wait()
    set_config(ResearcherConfig, home, "log_format", "json")
    bad = make(training_plan=Raises).submit()
    with pytest.raises(JobFailed) as caught:
        bad.wait(silent=True)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert (caught.value.outcome, bad.state) == ("failed", "failed")
    assert caught.value.reason == bad.reason == "exception"
    log = bad.folder / "runner.log"  # the runner writes why it ends once the job has ended
    wait_until(
        lambda: "exception" in log.read_text(), timeout_s=30, what="the runner's log of the failed job"
    )
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert (logged[-1]["level"], logged[-1]["job"]) == ("error", bad.id)
    assert logged[-1]["reason"] == "exception"
    with pytest.raises(JobFailed):
        bad.wait()
    said = capsys.readouterr()
    assert said.out == ""
    assert "failed" in said.err
    slow = make(slow=0.02, rounds=1).submit()
    with pytest.raises(WaitTimeout, match="it goes on"):
        slow.wait(timeout_s=1, silent=True)
    assert not slow.finished
    assert slow.wait(timeout_s=PATIENCE_S, silent=True).success


@pytest.mark.feature("TB-40", "PS-58", "NV-47")
def test_a_job_is_killed_from_another_process_wherever_it_stands(
    make: Callable[..., Job], tmp_path: Path
) -> None:
    points = str(make_points(tmp_path / "private.npz", 60, 2))
    mocks = {"path": points, "mock": str(make_points(tmp_path / "mock.npz", 60, 3))}
    job = make(slow=600, data=mocks, use="mock").submit()
    until(job, "running")
    runner = runner_of(job)
    time.sleep(1.0)  # deep in the plan's own code
    killing = "import sys; from fedjob import Job; print(Job.open(sys.argv[1]).kill())"
    assert python(killing, str(job.folder), cwd=tmp_path) == "True"
    assert (job.state, job.reason) == ("killed", "killed")
    wait_until(lambda: not Path(f"/proc/{runner}").exists(), timeout_s=50, what="the runner to end")
    states = [event.body["state"] for event in job.events() if event.type == "state"]
    assert states[-2:] == ["stopping", "killed"]
    assert job.kill() is False
    assert job.cancel() is False


@pytest.mark.feature("TB-39", "TB-41", "NV-57")
def test_of_jobs_beyond_max_jobs_the_others_queue_in_order_and_can_be_cancelled(
    make: Callable[..., Job], home: Path
) -> None:
    home.mkdir()
    set_config(ResearcherConfig, home, "max_jobs", "1")
    first = make(slow=60, name="first").submit()
    until(first, "running")
    second, third = make(name="second").submit(), make(name="third").submit()
    for job in (second, third):
        until(job, "queued")
    assert first.cancel() is False
    assert second.cancel() is True
    assert (second.state, second.reason) == ("cancelled", "cancelled")
    assert third.state == "queued"
    assert first.state == "running"
    assert first.kill()
    assert third.wait(timeout_s=PATIENCE_S, silent=True).success
    assert third.cancel() is False
    assert second.kill() is False


@pytest.mark.feature("PS-44", "NV-49", "PS-61", "PS-62", "NV-59")
def test_a_runner_that_dies_leaves_a_lost_job_that_restarts_where_it_was(
    make: Callable[..., Job], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    plan = gated_plan(tmp_path, gate, after=3)
    gate.touch()
    whole = make(rounds=6, training_plan=plan)
    whole.run(progress=False)
    gate.unlink()
    job = make(rounds=6, training_plan=plan).submit()
    wait_until(lambda: len(job.breakpoints) > 1, timeout_s=PATIENCE_S, what="two rounds")
    with pytest.raises(NotFinished, match="running"):
        job.restart()
    with pytest.raises(NotFinished, match="running"):
        job.delete()
    os.kill(runner_of(job), signal.SIGKILL)
    with pytest.raises(JobFailed) as caught:
        job.wait(silent=True)
    assert (caught.value.outcome, caught.value.reason) == ("lost", "runner_died")
    before = [event.round for event in job.events() if event.type == "round"]
    time.sleep(1.0)
    assert job.state == "lost"  # nothing is begun again by itself
    gate.touch()
    job.restart().wait(timeout_s=PATIENCE_S, silent=True)
    assert job.attempts == 2
    assert [(a.attempt, a.state, a.reason) for a in job.record.past] == [(1, "lost", "runner_died")]
    assert digest(job) == digest(whole)
    rounds = [event.round for event in job.events() if event.type == "round"]
    assert rounds[: len(before)] == before
    assert before[-1] <= rounds[len(before)] <= before[-1] + 2  # a breakpoint comes before its event


@pytest.fixture
def queued(make: Callable[..., Job], home: Path) -> Iterator[Callable[[], Job]]:
    """Return what makes a submitted job that waits for the home's only slot; the job that has it ends afterwards.

    Its runner is started as a user's is: the process that was started is the one that runs the job.
    """
    home.mkdir()
    set_config(ResearcherConfig, home, "max_jobs", "1")

    def submit() -> Job:
        job = make(name="behind").submit()
        until(job, "queued")
        return job

    with preloaded.interpreter(PYTHON):
        first = make(slow=60).submit()
        until(first, "running")
        yield submit
        first.kill()


def bereave(job: Job) -> int:
    """Kill a job's runner; return its process id once it is gone."""
    pid = runner_of(job)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not job._folder.is_held(), timeout_s=30, what="the lock to be free")
    return pid


def look_with(*words: str, home: Path) -> str:
    done = CliRunner().invoke(cli, ["job", *words, "--home", str(home)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.feature("NV-49")
def test_whoever_looks_at_a_queued_job_without_a_runner_begins_it_again_and_says_so(
    queued: Callable[[], Job], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = queued()
    dead = bereave(job)
    assert job.state == "queued"
    assert runner_of(job) != dead
    assert f"job {job.id} is queued: the process that ran it ({dead}) is gone: begun again" in caplog.text
    notes = [event.body["text"] for event in job.events() if event.type == "note"]
    assert f"the process that ran it ({dead}) is gone: begun again" in notes
    for process in json.loads(look_with("list", "--state", "active", "--json", home=home)):
        assert Job.open(home / "jobs" / process["id"]).kill()
    assert job.wait(timeout_s=PATIENCE_S, silent=True).success
    assert (job.attempts, job.record.past) == (1, [])


def test_a_job_whose_runners_keep_dying_is_said_to_be_run_by_nobody_until_it_is_begun_again(
    queued: Callable[[], Job], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = queued()
    bereave(job)
    assert "queued" in look_with("list", home=home)  # begins it again
    bereave(job)
    assert "Nobody runs it: its runner died while it was queued" in str(job.why())
    assert "Nobody runs it" in look_with("why", job.id, home=home)
    assert "nobody: its runner died" in look_with("show", job.id, home=home)
    assert "nobody runs it: its runner died again" in caplog.text
    dead = job._folder.holder()
    (line,) = json.loads(look_with("resume-all", "--json", home=home))  # at once, whatever happened before
    assert line == {"job": job.id, "name": "behind", "state": "queued", "done": "begun again"}
    assert runner_of(job) != dead
    assert f"process {runner_of(job)}" in look_with("show", job.id, home=home)
    assert look_with("resume-all", home=home) == f"every job of {home} has ended or is being run\n"
    assert job.kill()
    assert job.state == "cancelled"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_ran_inside_a_process_is_lost_with_it_also_while_it_waits(
    queued: Callable[[], Job], make: Callable[..., Job], home: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    job = make()
    text = "import sys; from fedjob import Job; Job.open(sys.argv[1]).run(progress=False)"
    process = subprocess.Popen([PYTHON, "-c", text, str(job.folder)], cwd=tmp_path)
    try:
        until(job, "queued")
        process.send_signal(sent)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
    shown = look_with("show", job.id, home=home)
    assert "lost (runner_died)" in shown
    assert "while it was queued: job.restart() begins it again" in shown
    assert (job.state, job.reason) == ("lost", "runner_died")
    assert "runner_died" in str(job.why())
    with pytest.raises(JobFailed, match="while it was queued"):
        job.wait(silent=True)
    assert look_with("resume-all", home=home).startswith("every job of ")
    assert job.restart().attempts == 2
    assert job.kill()


@pytest.mark.feature("NV-49")
def test_after_a_reboot_submitted_jobs_that_ran_continue_from_their_last_breakpoints(
    make: Callable[..., Job], home: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = make(rounds=3, training_plan=gated_plan(tmp_path, gate, after=1)).submit()
    wait_until(lambda: any(e.type == "round" for e in job.events()), timeout_s=PATIENCE_S, what="a round")
    assert job.breakpoints
    bereave(job)
    gate.touch()
    (line,) = json.loads(look_with("resume-all", "--json", home=home))
    assert (line["state"], line["done"]) == ("running", "restarted from its last breakpoint")
    assert job.wait(timeout_s=PATIENCE_S, silent=True).success
    assert [(past.state, past.reason) for past in job.record.past] == [("lost", "runner_died")]
    assert sorted({event.round for event in job.events() if event.type == "round"}) == [1, 2, 3]


def test_a_restart_may_begin_at_an_older_breakpoint_and_go_further(make: Callable[..., Job]) -> None:
    four = make(rounds=4)
    four.run(progress=False)
    job = make(rounds=2).submit().wait(silent=True)
    with pytest.raises(SpecError, match="before it"):
        job.restart(rounds=1)
    job.restart(breakpoint=1, rounds=4).wait(timeout_s=PATIENCE_S, silent=True)
    assert digest(job) == digest(four)
    assert job.attempts == 2
    with pytest.raises(SpecError, match="no breakpoint of job"):
        job.restart(breakpoint=four.breakpoints[0])


@pytest.mark.feature("NV-16")
def test_a_clone_keeps_every_field_but_those_that_are_named(make: Callable[..., Job], tmp_path: Path) -> None:
    job = make(slow=0.001, rounds=1, name="first", props={"a": 1}, hooks=[EarlyStopping("loss")])
    (tmp_path / "slow_0.001.py").unlink()
    clone = job.clone(model_args={"width": 9}, name="second")
    assert clone.state == "draft"
    assert clone.cloned_from == job.id
    changed = {
        name for name in job.spec.__dataclass_fields__ if getattr(job.spec, name) != getattr(clone.spec, name)
    }
    assert changed == {"id", "name", "cloned_from", "model_args"}
    chain = clone.clone()
    assert (chain.cloned_from, chain.name) == (clone.id, "second")
    same = make()
    same.run(progress=False)
    twin = same.clone()
    twin.run(progress=False)
    assert digest(twin) == digest(same)
    with pytest.raises(SpecError, match="did you mean 'rounds'"):
        job.clone(round=3)
    same.delete()
    with pytest.raises(NoSuchJob, match="deleted"):
        same.clone()
    with pytest.raises(NoSuchJob, match="deleted"):
        same.delete()


@pytest.mark.feature("NV-55", "NV-54", "NV-63")
def test_a_token_names_one_job_for_good(make: Callable[..., Job], home: Path) -> None:
    job = make(seed=None).submit(token="nightly-1")
    again = make(seed=None).submit(token="nightly-1")
    assert again.id == job.id
    with pytest.raises(TokenConflict, match=job.id):
        make(seed=None, rounds=3).submit(token="nightly-1")
    other = make(seed=None, project="other").submit(token="nightly-1")
    assert other.id != job.id
    for token in ("", "x" * 129, "a b", "ä"):
        if token:
            with pytest.raises(SpecError, match="submit token"):
                make().submit(token=token)
    job.wait(silent=True)
    job.delete()
    assert not job.folder.exists()
    with pytest.raises(TokenDeleted, match=job.id):
        make(seed=None).submit(token="nightly-1")
    other.wait(silent=True)


@pytest.mark.feature("NV-53")
@pytest.mark.parametrize("when", ["begin", "created"])
def test_a_submission_that_was_cut_is_continued_by_the_next_with_its_token(
    make: Callable[..., Job], home: Path, tmp_path: Path, when: str
) -> None:
    cut = f"""
import os, signal, sys
from fedjob import Job
from fedjob.researcher.storage import submissions
code = submissions.{when}.__code__
def watch(frame, what, _):
    if frame.f_code is code and what == ("return" if {when!r} == "begin" else "call"):
        os.kill(os.getpid(), signal.SIGKILL)
job = Job.open(sys.argv[1])
sys.setprofile(watch)
job.submit(token="t")
"""
    job = make()
    done = run_python(cut, str(job.folder), cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert job.state == ("draft" if when == "begin" else "waiting")
    again = make().submit(token="t")
    assert again.id == job.id
    assert again.wait(timeout_s=PATIENCE_S, silent=True).success
    assert again.attempts == 1


def test_a_hook_of_this_process_cannot_be_submitted(make: Callable[..., Job]) -> None:
    class Mine(Hook):
        name = "mine-alone"

    with pytest.raises(SpecError, match="Mine lives in this process"):
        make(hooks=[Mine()]).submit()


def test_a_job_is_submitted_once(make: Callable[..., Job]) -> None:
    job = make(training_plan=Linear, training_args={"lr": 0.1, "num_updates": 1, "batch_size": 8})
    job.submit()
    with pytest.raises(JobError, match="only a draft is submitted"):
        job.submit()
    job.wait(silent=True)
    assert issubclass(TokenConflict, SubmitError)


def test_two_processes_that_submit_at_once_with_one_token_make_one_job(
    make: Callable[..., Job], home: Path, tmp_path: Path
) -> None:
    jobs = [make() for _ in range(3)]
    text = "import sys; from fedjob import Job; print(Job.open(sys.argv[1]).submit(token='both').id)"
    with ThreadPoolExecutor(len(jobs)) as pool:
        ids = set(pool.map(lambda job: python(text, str(job.folder), cwd=tmp_path), jobs))
    assert len(ids) == 1
    (submitted,) = [job for job in jobs if job.id in ids]
    assert submitted.wait(timeout_s=PATIENCE_S, silent=True).success
    assert [job.state for job in jobs if job is not submitted] == ["draft", "draft"]
    assert submitted.attempts == 1
    begun = [e for e in submitted.events() if e.type == "state" and e.body["state"] == "waiting"]
    assert len(begun) == 1


def test_a_full_disk_under_the_job_folder_is_told_and_the_job_restarts(
    make: Callable[..., Job], tmp_path: Path
) -> None:
    whole = make(model_args={"width": 4000})
    whole.run(progress=False)
    job = make(model_args={"width": 4000})
    full = """
import resource, signal, sys
from fedjob import Job, JobFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
job = Job.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    job.run(progress=False)
except (JobFailed, OSError) as error:
    print(type(error).__name__)
"""
    assert python(full, str(job.folder), cwd=tmp_path) in ("JobFailed", "OSError")
    assert job.state in ("failed", "lost")
    job.restart().wait(timeout_s=PATIENCE_S, silent=True)
    assert digest(job) == digest(whole)


CRASHING = """
import os, sys
from fedjob import Hook, Job

class Crash(Hook):
    def event(self, event):
        if event.type == sys.argv[2] and (event.type != "state" or event.body["state"] == "completed") and not event.node:
            os._exit(9)

job = Job.open(sys.argv[1])
job._hooks = (Crash(),)
job.run(progress=False)
"""


@pytest.mark.feature("PS-10")
@pytest.mark.parametrize(
    ("point", "ends_as"), [("breakpoint", "lost"), ("result", "lost"), ("state", "completed")]
)
def test_a_job_is_never_completed_without_a_readable_result(
    make: Callable[..., Job], tmp_path: Path, point: str, ends_as: str
) -> None:
    """It is killed with its last round saved, with its result saved, and as soon as it is completed."""
    job = make(rounds=1)
    done = run_python(CRASHING, str(job.folder), point, cwd=tmp_path)
    assert done.returncode == 9
    assert notice(job._folder).state == ends_as
    if ends_as == "completed":
        assert job.result.params
    else:
        with pytest.raises(NotReady):
            _ = job.result


@pytest.mark.feature("BF-37")
def test_the_command_line_submits_a_job_as_text(make: Callable[..., Job], home: Path, tmp_path: Path) -> None:
    draft = make(rounds=1, name="as text")
    draft.to_json(tmp_path / "job.json")
    done = CliRunner().invoke(cli, ["job", "submit", str(tmp_path / "job.json"), "--home", str(home)])
    assert done.exit_code == 0, done.output
    job = Job.open(home / "jobs" / done.output.strip())
    assert job.id != draft.id
    assert job.wait(timeout_s=PATIENCE_S, silent=True).success
    draft.run(progress=False)
    assert digest(job) == digest(draft)
