"""Jobs of a home are found by id, name, state, project and plan, fast and without a network; records stay readable."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedjob import FedAvg, Job
from fedjob.cli import cli
from fedjob.common.errors import AmbiguousJob, FedjobError, NoSuchJob, NotReady, RecordUnreadable, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.types import new_job_id
from fedjob.researcher.jobs.session import HomeJobs
from fedjob.researcher.monitoring.summary import CODES
from fedjob.researcher.storage.index import list_entries
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.search import find_entries, the_folder
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.submissions import seal_job
from tests.data import TRAINING, make_points
from tests.plans import Linear, Tiny

FEDJOB = str(Path(sys.executable).with_name("fedjob"))


class Home(HomeJobs):
    """A home as a session offers it, but for the connection."""

    def __init__(self, home: Path) -> None:
        self.home = home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


HELD: dict[str, int] = {}
"""Id of a job -> the lock of its folder, as the process that runs it holds it."""


def release(job: Job) -> Job:
    """Let go of a job, as the end of the process that runs it does."""
    os.close(HELD.pop(job.id))
    return job


@pytest.fixture
def make(tmp_path: Path, home: Home) -> Iterator[Callable[..., Job]]:
    """Return what makes a job in any state; one that waits or is queued is held, as if a process ran it."""
    data = str(make_points(tmp_path / "points.npz", 40, 1))
    number = 0

    def make_job(state: str = "completed", **changes: object) -> Job:
        nonlocal number
        number += 1
        arguments: dict[str, object] = {"training_plan": Tiny, "training_args": TRAINING, "data": data}
        arguments |= {"nodes": "local", "home": home.home, **changes}
        job = Job(FedAvg(), **arguments)  # type: ignore[arg-type]
        at = f"2026-01-01T00:00:{number:02}.000000Z"
        if state != "draft":
            if state in ("waiting", "queued"):
                HELD[job.id] = job._folder.take(0.0)
            record = replace(job.record, state=state, submitted=at, attempt=1, detached=True)
            seal_job(job._folder)
            record.save(job._folder.record)
        return job

    yield make_job
    for lock in HELD.values():
        os.close(lock)
    HELD.clear()


@pytest.mark.parametrize("typed", ["", " ", "\t", "*", "job_", None])
def test_an_empty_or_doubtful_id_chooses_no_job(
    make: Callable[..., Job], home: Home, typed: str | None
) -> None:
    job = make()
    typed = job.id[:6] if typed is None else typed
    with pytest.raises((SpecError, NoSuchJob)):
        the_folder(home.home, typed)
    if typed != "*":
        with pytest.raises(SpecError):
            home.find(id=typed)
    for command in ("kill", "cancel", "stop", "restart", "delete", "submit", "show", "clone", "result"):
        done = CliRunner().invoke(cli, ["job", command, typed, "--home", str(home.home)])
        assert isinstance(done.exception, FedjobError), (command, done.output, done.exception)
    assert [(entry.id, entry.state) for entry in list_entries(home.home)] == [(job.id, "completed")]


def test_a_name_chooses_a_job_however_short_it_is_but_no_pattern_does(
    make: Callable[..., Job], home: Home
) -> None:
    job = make(name="cnn")
    assert the_folder(home.home, "cnn").path.name == job.id
    assert the_folder(home.home, job.id[:9]).path.name == job.id
    with pytest.raises(NoSuchJob):
        the_folder(home.home, "cnn*")


@pytest.mark.feature("TB-34", "TB-35", "TB-36", "TB-37", "TB-38", "PS-35", "PS-24", "NV-61")
def test_jobs_are_found_by_what_is_known_of_them(make: Callable[..., Job], home: Home) -> None:
    a = make(name="train-a")
    b = make("waiting", name="train-b", project="p")
    c = make("queued", name="other", training_plan=Linear, training_args={"lr": 0.1})
    d = make("failed", name="train-a")
    draft = make("draft", name="draft")
    assert [job.id for job in home.jobs()] == [a.id, b.id, c.id, d.id]
    assert home.jobs()[-1].id == d.id
    assert [job.id for job in home.jobs(reverse=True)] == [d.id, c.id, b.id, a.id]
    assert [job.id for job in home.jobs(limit=2)] == [c.id, d.id]
    assert home.jobs(name="nothing") == []
    assert [job.id for job in home.jobs(name=re.compile("train-.*"))] == [a.id, b.id, d.id]
    assert [job.id for job in home.jobs(name="train-*", state="history")] == [a.id, d.id]
    assert [job.id for job in home.jobs(state="pending")] == [b.id, c.id]
    assert [job.id for job in home.jobs(state=["failed", "queued"])] == [c.id, d.id]
    assert [job.id for job in home.jobs(project="p")] == [b.id]
    assert [job.id for job in home.jobs(plan="Linear")] == [c.id]
    assert [job.id for job in home.jobs(plan=c.spec.plan_hash[:10])] == [c.id]
    assert [job.id for job in home.jobs(state="draft")] == [draft.id]
    found = home.find(id=a.id[4:20])
    assert found is not None
    assert found.record == a.record
    assert found.id == a.id
    assert home.find(id=draft.id) is not None
    assert home.find(name="train-") is None
    assert home.find(id="job_ffffffffff") is None
    with pytest.raises(AmbiguousJob) as caught:
        home.find(name="train-a")
    assert a.id in str(caught.value)
    assert d.id in str(caught.value)
    with pytest.raises(SpecError, match="no state 'asleep'"):
        home.jobs(state="asleep")
    with pytest.raises(SpecError, match="limit"):
        home.jobs(limit=-1)
    with pytest.raises(NoSuchJob, match="nowhere"):
        the_folder(home.home, "nowhere")
    assert the_folder(home.home, "other").path == c.folder
    text = repr(home.jobs())
    assert "train-a" in text
    assert "queued" in text


@pytest.mark.feature("TB-33")
def test_the_active_job_is_the_last_submitted_that_has_not_ended(
    make: Callable[..., Job], home: Home
) -> None:
    assert home.active is None
    a, b = make("waiting"), make("waiting")
    assert home.active is not None
    assert home.active.id == b.id
    assert release(b).kill()
    assert b.state == "cancelled"
    assert home.active.id == a.id
    assert release(a).kill()
    assert home.active is None


@pytest.mark.feature("PS-44", "NV-49")
@pytest.mark.parametrize("state", ["starting", "running", "stopping"])
def test_a_job_that_nobody_runs_is_found_as_lost(make: Callable[..., Job], home: Home, state: str) -> None:
    job = make(state)
    (entry,) = find_entries(home.home)
    assert (entry.state, entry.reason) == ("lost", "runner_died")
    assert job.state == "lost"


@pytest.mark.feature("TB-32")
@pytest.mark.parametrize("state", State)
def test_success_and_result_follow_the_state(make: Callable[..., Job], state: State) -> None:
    job = make(state.value)
    if state in ("starting", "running", "stopping"):
        state = State.LOST  # nobody runs it
    assert job.state == state
    assert job.success == (state == "completed")
    if state != "completed":
        assert job.snapshot().code == CODES[state]
        with pytest.raises(NotReady):
            _ = job.result


@pytest.mark.feature("TB-39", "TB-40", "TB-41")
@pytest.mark.parametrize("verb", ["cancel", "kill"])
@pytest.mark.parametrize("state", ["draft", "waiting", "queued", "running", "completed"])
def test_verbs_without_a_runner_write_the_end_themselves(
    make: Callable[..., Job], verb: str, state: str
) -> None:
    job = make(state)
    if job.id in HELD:
        release(job)
    done = getattr(job, verb)()
    if state in ("waiting", "queued"):
        assert done
        assert (job.state, job.reason) == ("cancelled", "cancelled" if verb == "cancel" else "killed")
        assert job.record.finished
    else:
        assert not done
        assert job.state == ("lost" if state == "running" else state)
    assert list((job.folder / "inbox").glob("*")) == []


def test_a_lost_index_is_made_again(make: Callable[..., Job], home: Home) -> None:
    jobs = [make(name=str(number)) for number in range(3)]
    before = list_entries(home.home)
    for path in home.home.glob("jobs.sqlite*"):
        path.unlink()
    assert list_entries(home.home) == before
    shutil.rmtree(jobs[0].folder)
    assert [entry.id for entry in list_entries(home.home)] == [jobs[1].id, jobs[2].id]
    (jobs[1].folder / "record.json").write_text("{")
    states = {entry.id: entry.state for entry in list_entries(home.home)}
    assert states == {jobs[1].id: "unreadable", jobs[2].id: "completed"}


@pytest.mark.feature("NV-07", "NV-13", "NV-19")
def test_a_record_is_plain_json_and_tells_its_schema(make: Callable[..., Job], tmp_path: Path) -> None:
    job = make(props={"ticket": "X-1"})
    plain = json.loads((job.folder / "record.json").read_text())
    assert (plain["schema"], plain["state"]) == ("1.0", "completed")
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": "1.0", "state": "failed", "reason": "exception", "attempt": 2}))
    old = load_record(path)
    assert (old.state, old.attempt, old.past) == ("failed", 2, [])
    path.write_text(json.dumps({"schema": "1.9", "state": "failed", "from_later": [1]}))
    assert load_record(path).state == "failed"
    path.write_text(json.dumps({"schema": "2.0", "state": "failed"}))
    with pytest.raises(RecordUnreadable, match=r"schema 2\.0, this fedjob reads up to 1\.0"):
        load_record(path)
    for damaged in ("{", "[]", "{}", '{"schema": "1.0", "attempt": "many"}'):
        path.write_text(damaged)
        with pytest.raises(RecordUnreadable):
            load_record(path)
    assert load_record(tmp_path / "none.json") == JobRecord()


@pytest.mark.feature("TB-21")
def test_a_thousand_jobs_are_listed_in_half_a_second(make: Callable[..., Job], home: Home) -> None:
    job = make(name="one")
    spec, record = load_spec(job._folder.spec), job.record
    for number in range(999):
        id_ = new_job_id()
        folder = home.home / "jobs" / id_
        folder.mkdir()
        shutil.copyfile(job._folder.record, folder / "record.json")
        if number < 5:
            replace(spec, id=id_, name=f"n{number}").save(folder / "spec.mpk")
        else:
            shutil.copyfile(job._folder.spec, folder / "spec.mpk")
    assert record.state == "completed"
    command = [FEDJOB, "job", "list", "--json", "--home", str(home.home)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    took = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        after = os.times()  # of a processor: other tests run beside this one
        took.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert len(json.loads(done.stdout)) == 1000
    assert min(took) < 0.5, took


@pytest.mark.feature("TB-08", "TB-17")
def test_a_wrong_definition_raises_and_leaves_nothing(make: Callable[..., Job], home: Home) -> None:
    with pytest.raises(SpecError, match="plan"):
        make(training_plan=42)
    with pytest.raises(SpecError, match="fedavg"):
        Job("fedagv", training_plan=Tiny, data="x", home=home.home)
    wrong: list[dict[str, object]] = [
        {"use": "public"},
        {"watchers": "ann"},
        {"watchers": ["Ann!"]},
        {"round_timeout_s": 0},
        {"round_timeout_s": True},
        {"max_tries": 0},
        {"owner": {"age": "3"}},
        {"props": {"x": object()}},
        {"project": 3},
        {"name": None},
    ]
    for changes in wrong:
        with pytest.raises(SpecError):
            make(**changes)
    assert list_entries(home.home) == []
    one, two = make("draft", name="same"), make("draft", name="same")
    assert one.id != two.id
    assert one.state == "draft"
    assert list(one.events()) == []
