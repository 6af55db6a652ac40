"""What a researcher asks, hears and is told before the first round, with nodes that say what the test wants."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fedjob import FedAvg, Job, JobFailed, NodeRefused, Quorum
from fedjob.common.errors import SpecError
from fedjob.common.types import new_job_id
from fedjob.messaging.messages import End, Offer, Ping, Task
from fedjob.researcher.federation.offers import NoWorkersWarning
from fedjob.researcher.jobs.session import Session
from fedjob.training_plans.source.extraction import extract
from tests.e2e.federation import background
from tests.integration.scripted import Field
from tests.plans import Linear, Tiny
from tests.processes import wait_until

ASK_OWNER = {"status": "pending", "grant": "g1", "needs": ["data", "plan"], "contact": "dpo@ward.example"}
GRANTED = {"status": "granted", "grant": "g1", "grant_state": "granted"}


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


@pytest.fixture
def session(field: Field, tmp_path: Path) -> Session:
    return field.session(tmp_path / "lab", retry_min_s=0.2, retry_max_s=0.4)


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Tiny,
        "data": {"tags": ["toy"]},
        "training_args": {"lr": 0.1},
        "seed": 1,
        **changes,
    }
    return Job(FedAvg(), session=session, **arguments)


def running(job: Job) -> Any:
    return background(lambda: job.run(progress=False))


def error_of(run: Future[object], timeout_s: float = 30) -> JobFailed:
    error = run.exception(timeout=timeout_s)
    assert isinstance(error, JobFailed)
    return error


def soon(true: Callable[[], object], what: str) -> None:
    wait_until(true, timeout_s=20, what=what)


def bodies(job: Job, type_: str) -> list[dict[str, Any]]:
    return [event.body for event in job.events() if event.type == type_]


# --- check, request, refresh ------------------------------------------------------------


@pytest.mark.feature("FB-30", "FB-31", "FB-32", "FB-33", "FB-34", "TB-19")
def test_check_asks_each_node_once_and_prints_one_verdict_each(field: Field, session: Session) -> None:
    field.node("allows", {**GRANTED, "until": 1893456000.0, "limits": {"runs": 3}, "note": "for the study"})
    field.node("asks", ASK_OWNER)
    field.node("fails", {"status": "unknown", "reason": "repository", "note": "disk error"})
    field.node("open")
    job = make_job(session)
    field.node("gone")
    job.reach()
    field.nodes["gone"].silent = True
    checks = job.check(timeout_s=4.0)
    assert [" ".join(line.split()) for line in str(checks).splitlines()] == [
        "node dataset grant needs until limits note contact",
        "allows toy granted 2030-01-01 00:00 UTC runs=3 for the study",
        "asks toy pending data and plan dpo@ward.example",
        "fails toy unknown (repository) disk error",
        "gone toy no reply",
        "open toy not-needed",
    ]
    assert [answer.grant for answer in checks] == ["granted", "pending", "unknown", "no reply", "not-needed"]
    for node in field.nodes.values():
        offers = node.heard_of(Offer)
        assert len(offers) == 1
        assert offers[0].dry
        assert not node.heard_of(Task)
    assert job.state == "draft"
    field.nodes["gone"].silent = False
    assert job.check_training_plan_is_approved_by_nodes()["fails"] == "unknown: repository: disk error"


@pytest.mark.feature("TB-20")
def test_what_an_owner_has_to_allow_is_told_by_its_parts(field: Field, session: Session) -> None:
    for needs in (["plan"], ["data"], ["data", "plan"], []):
        field.node("-".join(["n", *needs]), {**ASK_OWNER, "needs": needs})
    found = {answer.node: set(answer.needs) for answer in make_job(session).check()}
    assert found == {
        "n-plan": {"plan"},
        "n-data": {"data"},
        "n-data-plan": {"plan", "data"},
        "n": set(),
    }


def test_a_schema_is_held_against_the_columns_that_nodes_tell(field: Field, session: Session) -> None:
    for name, type_ in (("good", "float"), ("odd", "text")):
        field.node(name, columns=[{"name": "age", "type": type_}])
    field.node("lacks", columns=[{"name": "height", "type": "float"}])
    found = {answer.node: answer.verdict for answer in make_job(session).check(schema={"age": "float"})}
    assert found == {
        "good": "not-needed",
        "lacks": "unknown: schema: no column age",
        "odd": "unknown: schema: age is text, expected float",
    }


@pytest.mark.feature("PS-05")
def test_a_request_files_with_every_owner_and_runs_nothing(field: Field, session: Session) -> None:
    node = field.node("ward", ASK_OWNER)
    field.node("open")
    job = make_job(session)
    assert job.request() == {"ward": "g1"}
    assert job.state == "draft"
    assert [offer.dry for offer in node.heard_of(Offer)] == [False]
    assert not node.heard_of(Task)
    assert job.record.grants["ward"]["state"] == "pending"
    assert job.why().nodes == ("ward",)


@pytest.mark.feature("TB-46")
def test_refresh_is_false_until_an_owner_decides(field: Field, session: Session) -> None:
    node = field.node("ward", ASK_OWNER)
    job = make_job(session)
    job.request()
    assert [job.refresh(throttle_s=0), job.refresh(throttle_s=0)] == [False, False]
    node.says = GRANTED
    soon(lambda: job.refresh(throttle_s=0), "the decision to be seen")
    assert job.record.grants["ward"]["state"] == "granted"
    assert not job.refresh(throttle_s=0)


@pytest.mark.feature("TB-47")
def test_a_hundred_refreshes_in_a_second_are_one_question(field: Field, session: Session) -> None:
    node = field.node("ward", ASK_OWNER)
    job = make_job(session)
    job.request()
    before = len(node.heard_of(Offer))
    began = time.monotonic()
    results = [job.refresh() for _ in range(100)]
    seconds = time.monotonic() - began
    assert not any(results)
    assert 1 <= len(node.heard_of(Offer)) - before <= 1 + seconds


# --- grants -------------------------------------------------------------------------------


@pytest.mark.feature("TB-31", "TB-46", "TB-66", "NV-15")
def test_a_job_tells_whose_permission_is_missing_and_what_was_decided(field: Field, session: Session) -> None:
    for name in ("a", "b"):
        field.node(name, {**ASK_OWNER, "grant": f"g-{name}"})
    field.node("c")
    job = make_job(session)
    with running(job) as run:
        soon(lambda: len(job.waiting_on) == 2, "two owners to be waited for")
        first = job.waiting_on[0]
        assert first.keys() == {"node", "needs", "plan", "dataset", "since", "contact"}
        assert (first["node"], first["needs"], first["dataset"]) == ("a", ["data", "plan"], "toy")
        assert first["plan"] == job.spec.plan_hash
        assert abs(first["since"] - time.time()) < 60
        assert job.why().gate == "grants"
        assert "dpo@ward.example" in str(job.why())
        assert not job.refresh(throttle_s=0)
        terms = {"by": "dr. b", "note": "for this study only", "decided": 1700000000.0, "until": 1893456000.0}
        field.nodes["a"].decide(**GRANTED, **terms, limits={"runs": 2})
        soon(lambda: [waits["node"] for waits in job.waiting_on] == ["b"], "one owner to be left")
        assert job.refresh(throttle_s=0)
        field.nodes["b"].decide(**GRANTED)
        error_of(run)  # scripted nodes refuse their tasks
    assert job.waiting_on == []
    said = job.record.grants["a"]
    assert {key: said[key] for key in ("state", "by", "note", "when", "until", "limits")} == {
        "state": "granted",
        "by": "dr. b",
        "note": "for this study only",
        "when": 1700000000.0,
        "until": 1893456000.0,
        "limits": {"runs": 2},
    }
    states = [body["state"] for body in bodies(job, "state")]
    assert states[:3] == ["waiting", "queued", "starting"]


def test_a_rejected_job_is_rejected_and_carries_the_owners_note(field: Field, session: Session) -> None:
    node = field.node("ward", ASK_OWNER)
    job = make_job(session)
    with running(job) as run:
        soon(lambda: job.waiting_on, "the owner to be waited for")
        node.decide(status="rejected", grant_state="rejected", reason="rejected", note="too vague")
        error = error_of(run)
    assert (job.state, job.reason, error.outcome) == ("rejected", "rejected", "rejected")
    assert "too vague" in str(error)
    assert "too vague" in str(job.why())


@pytest.mark.feature("BF-46")
def test_one_refusal_of_three_ends_a_job_that_needs_all_and_no_other(field: Field, session: Session) -> None:
    field.node("no", {"status": "rejected", "grant_state": "rejected", "note": "too vague"})
    field.node("yes-1")
    field.node("yes-2")
    every = make_job(session, quorum=Quorum(required="all"))
    with pytest.raises(NodeRefused, match="no: rejected: too vague") as caught:
        every.run(progress=False)
    assert caught.value.nodes == {"no": "rejected: too vague"}
    assert (every.state, caught.value.outcome) == ("rejected", "rejected")
    with pytest.raises(NodeRefused) as again:
        every.wait(silent=True)
    assert again.value.nodes == {"no": "too vague"}
    assert not any(node.heard_of(Task) for node in field.nodes.values())
    with pytest.raises(JobFailed, match="scripted"):
        make_job(session).run(progress=False)
    assert [len(field.nodes[name].heard_of(Task)) for name in ("no", "yes-1", "yes-2")] == [0, 1, 1]


def test_a_grants_deadline_starts_the_job_with_those_who_decided(field: Field, session: Session) -> None:
    field.node("asks", ASK_OWNER)
    field.node("open")
    job = make_job(session, quorum=Quorum(grants_deadline_s=0.5))
    with running(job) as run:
        error_of(run)
    (tried,) = bodies(job, "schedule")
    assert tried["nodes"] == {"asks": "undecided", "open": "ok"}
    assert not field.nodes["asks"].heard_of(Task)


def test_a_grant_that_expires_in_the_queue_is_waited_for_again(field: Field, session: Session) -> None:
    node = field.node("ward", {**GRANTED, "schedule": "resources", "short": ["gpus"]})
    job = make_job(session, max_tries=1000)
    with running(job) as run:
        soon(lambda: job.state == "queued" and job.record.tries, "the job to queue")
        node.says = {**ASK_OWNER, "grant_state": "expired"}
        soon(lambda: job.waiting_on, "the owner to be waited for again")
        node.decide(**GRANTED)
        error_of(run)
    states = [(body["state"], body["reason"]) for body in bodies(job, "state")]
    assert states[:4] == [("waiting", ""), ("queued", ""), ("waiting", "expired"), ("queued", "")]


# --- scheduling ---------------------------------------------------------------------------


@pytest.mark.feature("TB-51", "NV-29", "NV-33", "NV-34", "PS-55")
def test_tries_are_recorded_with_reasons_until_the_last(field: Field, session: Session) -> None:
    looked = Event()
    reserving: list[Offer] = []

    def say(offer: Offer) -> dict[str, Any]:
        reserving.extend([offer] * offer.reserve)
        if len(reserving) == 3:  # after the third try the job is over
            looked.wait(15)
        return {"status": "not-needed", "schedule": "no_workers", "contact": "it@ward.example"}

    field.node("ward", say)
    job = make_job(session, max_tries=3)
    with running(job) as run:
        soon(lambda: len(job.schedule) == 2, "two tries")
        assert job.state == "queued"
        assert job.schedule[-1].time == [e.time for e in job.events() if e.type == "schedule"][-1]
        why = job.why()
        assert (why.gate, why.reason, why.nodes) == ("scheduling", "no_workers", ("ward",))
        assert "no free worker" in str(why)
        assert "Ask it@ward.example" in str(why)
        looked.set()
        error = error_of(run)
    assert (job.state, job.reason, error.reason) == ("unschedulable", "no_workers", "no_workers")
    assert [tried.reason for tried in job.schedule] == ["no_workers"] * 3
    assert [tried.wait_s for tried in job.schedule] == [0.2, 0.4, 0.0]
    assert job.record.tries == 3
    assert any("node ward has no workers" in body["text"] for body in bodies(job, "note"))


@pytest.mark.feature("NV-08", "NV-09", "NV-34", "PS-55")
def test_a_required_node_that_is_away_is_waited_for_and_tried_when_it_appears(
    field: Field, tmp_path: Path
) -> None:
    session = field.session(tmp_path / "patient", party="patient", retry_min_s=300)
    for name in ("a", "b"):
        field.node(name)
    job = make_job(session, quorum=Quorum(required=("b",)))
    job.reach()
    field.nodes["b"].stop()
    with running(job) as run:
        soon(lambda: len(job.schedule) == 1, "the first try")
        assert job.schedule[0].reason == "required_missing"
        assert job.schedule[0].nodes == {"a": "ok", "b": "offline"}
        assert "offline" in str(job.why())
        field.nodes["b"].start()
        error_of(run)
    assert [tried.reason for tried in job.schedule] == ["required_missing", "scheduled"]


@pytest.mark.feature("NV-50")
def test_a_required_node_that_never_comes_makes_the_job_unschedulable(field: Field, session: Session) -> None:
    for name in ("a", "b"):
        field.node(name)
    job = make_job(session, quorum=Quorum(required=("b",)), max_tries=2)
    job.reach()
    field.nodes["b"].stop()
    with running(job) as run:
        error = error_of(run)
    assert (job.state, job.reason, error.reason) == ("unschedulable", "required_missing", "required_missing")
    assert job.schedule[-1].reason == "required_missing"


@pytest.mark.feature("NV-08", "NV-25")
def test_a_job_starts_without_nodes_that_are_away_or_cannot_be_set_up(field: Field, session: Session) -> None:
    for name in ("a", "b", "c", "d"):
        field.node(name)
    job = make_job(session, quorum=Quorum(min_nodes=2))
    job.reach()
    field.nodes["b"].says = {"status": "unknown", "reason": "plan", "note": "line 3 is no Python"}
    field.nodes["c"].stop()
    with running(job) as run:
        error_of(run)
    outcomes = {event.node: event.body["outcome"] for event in job.events() if event.type == "setup"}
    assert outcomes == {"a": "ok", "b": "error: plan: line 3 is no Python", "c": "no reply", "d": "ok"}
    soon(lambda: all(field.nodes[name].heard_of(Task) for name in "ad"), "both to hear of their tasks")
    assert [bool(field.nodes[name].heard_of(Task)) for name in "abcd"] == [True, False, False, True]
    field.nodes["d"].stop()
    fewer = make_job(session, nodes=["a", "b"], quorum=Quorum(min_nodes=2))
    with running(fewer) as run:
        error = error_of(run)
    assert (fewer.state, fewer.reason) == ("unschedulable", "plan")
    assert "b: plan: line 3 is no Python" in str(error)


@pytest.mark.feature("NV-39")
def test_all_nodes_means_those_that_are_enrolled_in_the_project(field: Field, session: Session) -> None:
    for name, projects in (("a", ["heart"]), ("b", ["heart", "lung"]), ("c", [])):
        field.node(name, pong={"projects": projects})
    job = make_job(session, project="heart")
    with running(job) as run:
        error_of(run)
    assert job.nodes == ["a", "b"]
    assert {offer.project for offer in field.nodes["a"].heard_of(Offer)} == {"heart"}
    assert {task.project for task in field.nodes["a"].heard_of(Task)} == {"heart"}
    assert not field.nodes["c"].heard_of(Offer)
    with pytest.raises(SpecError, match=r"requires nodes c, but only a, b have its data in project heart"):
        make_job(session, project="heart", quorum=Quorum(required=("c",))).reach()
    with pytest.raises(SpecError, match=r"needs 2 nodes, but only 1 have the job's data in project lung"):
        make_job(session, project="lung", quorum=Quorum(min_nodes=2)).reach()


@pytest.mark.feature("PS-12")
def test_a_node_without_workers_is_warned_of_at_once(field: Field, session: Session) -> None:
    field.node("busy")
    field.node("idle", pong={"workers": 0, "contacts": [{"address": "it@idle.example"}]})
    job = make_job(session)
    with pytest.warns(NoWorkersWarning) as caught:
        job.reach()
    assert [str(warning.message) for warning in caught] == [
        "node idle has no workers: it accepts and queues tasks but runs none; ask it@idle.example to start it "
        "with `fedjob node start --workers N`"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_job(session, nodes=["busy"]).reach()


@pytest.mark.feature("NV-60")
def test_tasks_of_jobs_that_are_over_or_unknown_are_ended_when_a_runner_meets_their_node(
    field: Field, session: Session
) -> None:
    node = field.node("ward")
    old = make_job(session)
    with running(old) as run:
        error_of(run)
    draft, unknown = make_job(session), new_job_id()
    node.heard.clear()
    node.pong["jobs"] = [old.id, draft.id, unknown]
    new = make_job(session)
    with running(new) as run:
        error_of(run)
    assert node.heard_of(Ping)

    def ends() -> dict[str, End]:
        return {message.job: message.body for message in list(node.heard) if isinstance(message.body, End)}

    soon(lambda: len(ends()) >= 3, "the ends of three jobs")
    ended = ends()
    assert ended.keys() == {old.id, unknown, new.id}
    assert (ended[old.id].outcome, ended[unknown].outcome) == ("failed", "lost")


# --- a plan and resources per node --------------------------------------------------------


@pytest.mark.feature("NV-04", "NV-10", "NV-11", "NV-20")
def test_each_node_is_offered_and_given_its_own_plan_and_no_other(field: Field, session: Session) -> None:
    for name in ("node-a", "node-b", "node-c", "node-d"):
        field.node(name)
    texts = {"node-a": extract(Tiny), "node-b": extract(Tiny), "node-c": extract(Linear)}
    plans = {"app1": (Tiny, ["node-a", "node-b"]), "app2": (Linear, ["node-c"])}
    job = make_job(session, training_plan=plans)
    with running(job) as run:
        soon(lambda: job.state in ("running", "failed"), "the job to run")
        error_of(run)
    for name, text in texts.items():
        node = field.nodes[name]
        asked = [*node.heard_of(Offer), *node.heard_of(Task)]
        assert len(asked) == 3
        assert {body.plan.sha256 for body in asked} == {text.sha256}
        assert {body.entry for body in asked} == {text.entry}
    assert not field.nodes["node-d"].heard_of(Offer)
    expected = {
        f"Tiny@{texts['node-a'].sha256}": ["node-a", "node-b"],
        f"Linear@{texts['node-c'].sha256}": ["node-c"],
    }
    assert job.deployment == expected
    assert job.record.deployment == expected


@pytest.mark.feature("NV-10")
def test_the_bytes_that_a_node_would_fetch_are_those_that_its_offer_names(
    field: Field, session: Session
) -> None:
    fetched: dict[str, str] = {}

    def look(name: str) -> Callable[[Offer], dict[str, Any]]:
        def say(offer: Offer) -> dict[str, Any]:
            assert offer.plan is not None
            data = field.repository.get_bytes(offer.plan, limit_bytes=1 << 20)
            fetched[name] = hashlib.sha256(data).hexdigest()
            return {"status": "granted"}

        return say

    for name in ("a", "b"):
        field.node(name, look(name))
    make_job(session, training_plan={"a": Tiny, "b": Linear}).check()
    assert fetched == {"a": extract(Tiny).sha256, "b": extract(Linear).sha256}


@pytest.mark.feature("NV-03")
def test_each_node_is_asked_for_its_own_resources_and_reserves_them(field: Field, session: Session) -> None:
    for name in ("a", "b"):
        field.node(name)
    given = {"default": {"cpus": 1}, "b": {"gpus": 1, "memory": "8Gi"}}
    job = make_job(session, resources=given)
    with running(job) as run:
        error_of(run)
    for name, wanted in (("a", given["default"]), ("b", given["b"])):
        node = field.nodes[name]
        assert [(offer.reserve, offer.resources) for offer in node.heard_of(Offer)] == [
            (False, wanted),
            (True, wanted),
        ]
        assert [task.resources for task in node.heard_of(Task)] == [wanted]
    assert job.spec.resources == given


@pytest.mark.feature("PS-39")
def test_a_queued_job_names_the_node_and_its_contact(field: Field, session: Session) -> None:
    node = field.node(
        "ward", {"status": "granted", "schedule": "outside_hours", "contact": "it@ward.example"}
    )
    job = make_job(session, max_tries=1000)
    with running(job) as run:
        soon(lambda: job.state == "queued" and len(job.schedule), "the job to queue")
        assert "waits to start at ward (ask it@ward.example): outside_hours" in str(job)
        node.says = GRANTED
        error_of(run)


@pytest.mark.feature("NV-09")
def test_a_required_node_that_fails_in_a_round_fails_the_job(field: Field, session: Session) -> None:
    field.node("a")
    job = make_job(session, quorum=Quorum(required=("a",)))
    with running(job) as run:
        error = error_of(run)
    assert (job.state, job.reason, error.reason) == ("failed", "quorum_lost", "quorum_lost")


def test_events_of_nodes_are_kept_with_node_task_and_round(field: Field, session: Session) -> None:
    node = field.node("a", events=[("state", {"state": "running", "worker": 41}), ("my.type", {"x": 1})])
    job = make_job(session)
    with running(job) as run:
        error_of(run)
    (task,) = job.tasks
    assert (task.node, task.round, task.state, task.worker) == ("a", 1, "running", 41)
    (own,) = [event for event in job.events() if event.type == "my.type"]
    assert (own.node, own.round, own.task, own.body) == ("a", 1, task.key, {"x": 1})
    assert not [event for event in job.events() if event.type == "lease"]
    assert node.heard_of(Task)
