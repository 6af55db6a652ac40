"""Submitted jobs over a real hub and real nodes: owners, faults, other processes, other researchers."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from fedjob import FedAvg, Job, JobFailed
from fedjob.common.errors import AmbiguousJob, NoSuchJob, SubmitError, TokenDeleted
from tests.data import LOSS_ALONE, TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, preferred_kind
from tests.plans import Linear, Raises, Tiny
from tests.processes import wait_until
from tests.slow import gated_plan, slow_plan
from tests.slow import until as until_within

pytestmark = pytest.mark.timeout(400)

BUSY = 10.0
"""By how much longer than on an idle machine a call may take here: other tests run beside this one."""

until = partial(until_within, timeout_s=PATIENCE_S)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return a node that runs what it is given, and one whose owner decides."""
    with Federation(tmp_path_factory.mktemp("life"), preferred_kind()) as made:
        for index, node in enumerate(made.add_nodes("open", "strict")):
            node.add("points", make_points(made.folder / f"points-{index}.npz", 60, index), "points")
        made.nodes["strict"].set(approval="on")
        made.nodes["open"].set(sandbox="none")  # a plan there waits for a file of the test's
        made.start_nodes()
        yield made


def make(fed: Federation, nodes: list[str] | None = None, home: str = "lab", **changes: object) -> Job:
    if "slow" in changes:
        changes["training_plan"] = slow_plan(fed.folder, changes.pop("slow"))  # type: ignore[arg-type]
    arguments: dict[str, object] = {
        "training_plan": Tiny,
        "data": "points",
        "nodes": nodes or ["open"],
        "training_args": LOSS_ALONE if "training_plan" in changes else TRAINING,
        "rounds": 2,
        "seed": 5,
        "session": fed.session(home),
    }
    return Job(FedAvg(), **{**arguments, **changes})  # type: ignore[arg-type]


def computes(job: Job) -> bool:
    """Whether a node has told that a task of a job runs."""
    return any(
        event.type == "state" and event.node and event.body["state"] == "running" for event in job.events()
    )


@pytest.mark.feature("TB-49", "TB-50", "TB-07", "NV-42", "NV-43", "NV-44", "NV-45", "PS-24")
def test_a_submitted_job_waits_for_the_owner_and_runs_when_they_approve(fed: Federation) -> None:
    strict = fed.nodes["strict"]
    draft = make(fed, ["strict"], name="asked before")
    draft.request()
    assert draft.state == "draft"
    assert draft.id not in [job.id for job in fed.session().jobs()]
    job = make(fed, ["strict"], name="for the board", training_plan=Linear)
    began = time.monotonic()
    job.submit()
    assert time.monotonic() - began < 1.0 * BUSY
    job.wait(for_grants=False, silent=True)
    began = time.monotonic()
    assert job.wait(for_grants=False, silent=True) is job
    assert time.monotonic() - began < 1.0 * BUSY
    assert job.state == "waiting"
    (grant,) = [g for g in strict.json("grants", "list", "--pending") if g["plan"] == job.spec.plan_hash]
    assert strict.json("grants", "show", grant["id"])["job_name"] == "for the board"
    strict.cli("grants", "approve", grant["id"])
    assert job.wait(timeout_s=PATIENCE_S, silent=True).success
    events = list(job.events())
    states = [event.body["state"] for event in events if event.type == "state" and not event.node]
    assert states == ["waiting", "queued", "starting", "running", "completed"]
    granted = next(event for event in events if event.type == "grant" and not event.body.get("waiting"))
    queued = next(event for event in events if event.type == "state" and event.body["state"] == "queued")
    assert abs(granted.seq - queued.seq) <= 2


@pytest.mark.feature("TB-44")
def test_without_a_broker_nothing_is_submitted_and_waiting_outlives_the_hub(fed: Federation) -> None:
    running = make(fed, rounds=3, slow=0.4).submit()
    # while its node computes it asks the hub for nothing: a hub that is long in coming back is no trouble then
    wait_until(lambda: computes(running), timeout_s=PATIENCE_S, what="the node to compute")
    fed.hub.kill()
    wait_until(
        lambda: not fed.session().endpoint.connected,
        timeout_s=30,
        what="the session to notice that the hub is gone",
    )
    job = make(fed)
    with pytest.raises(SubmitError):
        job.submit(token="later")
    assert job.state == "draft"
    assert job.attempts == 0
    fed.start_hub()
    assert running.wait(timeout_s=PATIENCE_S, silent=True).success
    wait_until(lambda: fed.session().endpoint.connected, timeout_s=60, what="the session to be back")
    again = job.submit(token="later")
    assert again.id == job.id
    assert again.wait(timeout_s=PATIENCE_S, silent=True).success


def leases_of(fed: Federation, job: str) -> int:
    """Return the number of objects that the hub holds for a job, as its database lists them."""
    with contextlib.closing(
        sqlite3.connect(f"file:{fed.folder / 'hub' / 'hub.sqlite'}?mode=ro", uri=True)
    ) as database:
        return int(database.execute("SELECT count(*) FROM leases WHERE job = ?", (job,)).fetchone()[0])


@pytest.mark.feature("TB-40", "TB-43")
def test_a_killed_job_frees_the_nodes_processes_and_leaves_no_objects(fed: Federation) -> None:
    job = make(fed, slow=600).submit()
    until(job, "running")
    node = fed.nodes["open"]
    working = lambda: [task["worker"] for task in node.json("tasks") if task["job"] == job.id]  # noqa: E731
    wait_until(lambda: any(working()), timeout_s=PATIENCE_S, what="a worker")
    workers = node.workers()
    assert set(working()) <= set(workers)
    assert leases_of(fed, job.id) > 0
    done = fed.cli("job", "kill", job.id)
    assert done.stdout.strip() == f"{job.id} killed"
    wait_until(
        lambda: not any(psutil.pid_exists(pid) for pid in workers), timeout_s=30, what="the worker to be gone"
    )
    wait_until(lambda: leases_of(fed, job.id) == 0, timeout_s=30, what="the hub to hold no object of the job")
    with pytest.raises(JobFailed) as caught:
        job.wait(silent=True)
    assert (caught.value.outcome, caught.value.reason) == ("killed", "killed")


@pytest.mark.feature("NV-59")
def test_code_that_raises_at_a_required_node_fails_the_job_for_good(fed: Federation) -> None:
    job = make(fed, training_plan=Raises).submit()
    with pytest.raises(JobFailed) as caught:
        job.wait(timeout_s=PATIENCE_S, silent=True)
    assert caught.value.outcome == "failed"
    time.sleep(2.0)
    assert job.state == "failed"
    assert job.attempts == 1


@pytest.mark.feature("PS-61", "NV-49", "PS-44")
def test_a_restarted_job_goes_on_from_its_breakpoint_with_the_same_nodes(
    fed: Federation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    plan = gated_plan(tmp_path, gate, after=2)
    gate.touch()
    whole = make(fed, rounds=6, nodes=["open"], training_plan=plan)
    whole.run(progress=False)
    gate.unlink()
    job = make(fed, rounds=6, training_plan=plan).submit()
    wait_until(lambda: job.breakpoints, timeout_s=PATIENCE_S, what="a round")
    os.kill(job._folder.holder(), signal.SIGKILL)
    gate.touch()
    with pytest.raises(JobFailed) as caught:
        job.wait(silent=True)
    assert caught.value.outcome == "lost"
    assert job.restart().wait(timeout_s=PATIENCE_S, silent=True).success
    assert job.attempts == 2
    first, second = (j.result.params for j in (whole, job))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.feature("BF-41", "TB-16", "PS-36", "TB-36")
def test_each_researcher_finds_their_own_jobs_and_the_owner_sees_both(fed: Federation) -> None:
    mine, theirs = make(fed, name="same"), make(fed, name="same", home="rival")
    for job in (mine, theirs):
        job.run(progress=False)
    lab, rival = fed.session("lab"), fed.session("rival")
    assert {job.id for job in lab.jobs()} & {job.id for job in rival.jobs()} == set()
    assert rival.find(id=mine.id) is None
    assert lab.find(id=mine.id) is not None
    seen = {task["job"]: task["researcher"] for task in fed.nodes["open"].json("tasks")}
    assert (seen[mine.id], seen[theirs.id]) == ("lab", "rival")
    make(fed, name="same").run(progress=False)
    with pytest.raises(AmbiguousJob, match=mine.id):
        lab.find(name="same")


@pytest.mark.feature("NV-54")
def test_a_deleted_job_leaves_a_tombstone_alone(fed: Federation, tmp_path: Path) -> None:
    job = make(fed, keep=True).submit(token="gone")
    job.wait(timeout_s=PATIENCE_S, silent=True)
    repository = fed.session().repository
    first = job.folder / "initial.safetensors"
    ref = repository.put(first, job=job.id, readers=["open"])
    fed.cli("job", "delete", job.id)
    assert not job.folder.exists()
    assert not repository.has_object(ref.sha256)
    with pytest.raises(NoSuchJob):
        _ = job.state
    with pytest.raises(TokenDeleted, match=job.id):
        make(fed, keep=True).submit(token="gone")
