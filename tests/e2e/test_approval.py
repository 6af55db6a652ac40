"""A node runs nothing that its owner did not approve: the job waits, says for whom, and goes on or fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from fedjob import FedAvg, Job, JobFailed, Quorum
from fedjob.training_plans.source.extraction import extract
from tests.data import LOSS_ALONE, TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, background, preferred_kind
from tests.e2e.plans import Chatty, Points
from tests.plans import Linear, Tiny
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return two new nodes: nobody changed what they approve."""
    with Federation(tmp_path_factory.mktemp("strict"), preferred_kind(), forked=True) as made:
        for index, node in enumerate(made.add_nodes("ward-a", "ward-b", approval="on")):
            node.add("points", make_points(made.folder / f"points-{index}.npz", 60, index), "points")
        made.start_nodes()
        yield made


def make_job(strict: Federation, plan: type | str, **changes: object) -> Job:
    arguments = {"data": "points", "training_args": TRAINING, "rounds": 2, "seed": 1, **changes}
    return Job(FedAvg(), training_plan=plan, session=strict.session(), **arguments)  # type: ignore[arg-type]


def waits_for(job: Job, *nodes: str) -> None:
    """Return once the job says that it waits for exactly these owners."""

    def told() -> list[str]:
        lists = [event.body["waiting"] for event in job.events() if event.type == "grant"]
        return lists[-1] if lists else []

    wait_until(lambda: told() == list(nodes), timeout_s=PATIENCE_S, what=f"the job to wait for {nodes}")
    assert job.state == "waiting"


def tasks_of(strict: Federation, node: str, job: Job) -> list[object]:
    """Return the tasks of a job that a node knows."""
    return [task for task in strict.nodes[node].json("tasks") if task["job"] == job.id]


def pending(strict: Federation, node: str, plan: type | str) -> str:
    """Return the id of the one grant for a plan's text that waits for the owner of a node."""
    listed = strict.nodes[node].json("grants", "list", "--pending")
    (grant,) = [grant for grant in listed if grant["plan"] == extract(plan).sha256]
    assert grant["researcher"] == "lab"
    assert grant["dataset"] == "points"
    return str(grant["id"])


def failure(run: Future[object]) -> JobFailed:
    error = run.exception(timeout=PATIENCE_S)
    assert isinstance(error, JobFailed)
    return error


@pytest.mark.feature("TB-81", "PS-29")
def test_a_job_waits_for_the_owners_and_runs_the_approved_bytes(strict: Federation) -> None:
    job = make_job(strict, Tiny, name="wards", note="to see whether it works")
    nodes = strict.nodes
    assert nodes["ward-a"].status()["approval"] == "on"
    with background(lambda: job.run(progress=False)) as run:
        waits_for(job, "ward-a", "ward-b")
        first, second = (pending(strict, name, Tiny) for name in ("ward-a", "ward-b"))
        shown = nodes["ward-a"].json("grants", "show", first)
        assert (shown["job_name"], shown["request_note"]) == ("wards", "to see whether it works")
        assert shown["status"] == "pending"
        assert nodes["ward-a"].json("grants", "show", first, "--code")["code"] == extract(Tiny).text
        nodes["ward-a"].cli("grants", "approve", first, "--note", "fine")
        waits_for(job, "ward-b")
        assert not run.done()
        assert "waits for          ward-b" in strict.cli("job", "show", job.id).stdout
        assert not tasks_of(strict, "ward-a", job)
        nodes["ward-b"].cli("grants", "approve", second)
        run.result(timeout=PATIENCE_S)
    assert job.success
    assert len(job.rounds[2].replied) == 2
    kept = nodes["ward-a"].json("grants", "show", first, "--code")["code"]
    assert kept == extract(Tiny).text == job.training_plan_file.read_text()
    again = make_job(strict, Tiny)
    again.run(progress=False)  # the same text: nobody is asked again
    assert not [event for event in again.events() if event.type == "grant"]


@pytest.mark.feature("TB-81")
def test_a_rejected_plan_fails_the_job_and_the_owners_reason_is_told(strict: Federation) -> None:
    job = make_job(strict, Linear, quorum=Quorum(min_nodes=2), training_args=LOSS_ALONE)
    with background(lambda: job.run(progress=False)) as run:
        waits_for(job, "ward-a", "ward-b")
        grant = pending(strict, "ward-a", Linear)
        strict.nodes["ward-a"].cli("grants", "reject", grant, "--reason", "not before the board met")
        error = failure(run)
    assert error.reason == job.reason == "rejected"
    assert "ward-a" in str(error)
    assert "not before the board met" in str(error)
    assert job.state == "rejected"
    assert not tasks_of(strict, "ward-a", job)
    assert not tasks_of(strict, "ward-b", job)


def test_asking_whether_a_plan_may_run_leaves_nothing_behind(strict: Federation) -> None:
    before = {name: node.json("grants", "list") for name, node in strict.nodes.items()}
    job = make_job(strict, Chatty, quorum=Quorum(min_nodes=1))
    answers = job.check_training_plan_is_approved_by_nodes()
    assert answers == {"ward-a": "pending", "ward-b": "pending"}
    assert {name: node.json("grants", "list") for name, node in strict.nodes.items()} == before
    job.close("killed")


def test_one_node_of_two_is_enough_where_the_quorum_says_so(strict: Federation) -> None:
    job = make_job(strict, Points, quorum=Quorum(min_nodes=1))
    with background(lambda: job.run(progress=False)) as run:
        waits_for(job, "ward-a", "ward-b")
        strict.nodes["ward-a"].cli("grants", "approve", pending(strict, "ward-a", Points))
        waits_for(job, "ward-b")  # the gate is open until all owners have decided
        strict.nodes["ward-b"].cli("grants", "reject", pending(strict, "ward-b", Points), "--reason", "no")
        run.result(timeout=PATIENCE_S)
    assert job.rounds[1].replied == ("ward-a",)


def test_a_changed_comment_is_another_text_and_asks_again(strict: Federation, tmp_path: Path) -> None:
    text = extract(Tiny).text
    changed = tmp_path / "changed.py"
    changed.write_text(text.replace('"""A network', '"""The network'))
    plan = f"{changed}:Tiny"
    job = make_job(strict, plan)
    with background(lambda: job.run(progress=False)) as run:
        waits_for(job, "ward-a", "ward-b")
        for name in ("ward-a", "ward-b"):
            reason = ("--reason", "changed behind my back")
            strict.nodes[name].cli("grants", "reject", pending(strict, name, plan), *reason)
        assert failure(run).reason == "rejected"


@pytest.mark.feature("FB-30", "FB-32", "FB-33", "FB-34", "FB-35")
def test_each_nodes_verdict_is_told_by_its_own_word(tmp_path: Path) -> None:
    with Federation(tmp_path / "verdicts", preferred_kind(), forked=True) as made:
        names = ("approves", "lacks", "open", "rejects", "silent", "undecided")
        for node in made.add_nodes(*names, approval="on"):
            node.add("points", make_points(made.folder / f"{node.name}.npz", 60, 1), "points")
        nodes = made.nodes
        nodes["open"].set(approval="off")
        made.start_nodes()
        job = make_job(made, Points, quorum=Quorum(min_nodes=6))
        with background(lambda: job.run(progress=False)) as run:
            waits_for(job, "approves", "lacks", "rejects", "silent", "undecided")
            nodes["approves"].cli("grants", "approve", pending(made, "approves", Points))
            grant = pending(made, "rejects", Points)
            nodes["rejects"].cli("grants", "reject", grant, "--reason", "too vague")
            assert failure(run).reason == "rejected"
        nodes["lacks"].cli("data", "remove", "points")
        nodes["silent"].kill()
        assert job.check_training_plan_is_approved_by_nodes() == {
            "approves": "granted",
            "lacks": "unknown: no_dataset: there is no dataset 'points' here",
            "open": "not-needed",
            "rejects": "rejected: too vague",
            "silent": "no reply",
            "undecided": "pending",
        }
