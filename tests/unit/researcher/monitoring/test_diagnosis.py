"""What a job says of why it is not further than it is, gate by gate."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.types import new_job_id
from fedjob.researcher.monitoring.diagnosis import Why, explain, tasks_of, tries_of
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import Component, JobSpec

SPEC = JobSpec(
    id=new_job_id(),
    protocol=Component(name="fedavg"),
    rounds=5,
    seed=1,
    datasets={"node-a": {"name": "heart"}, "node-b": {"name": "heart"}},
)
AT = 1_700_000_000.0  # 22:13:20 UTC


def tried(reason: str, nodes: dict[str, str], **body: Any) -> JobEvent:
    fields = {"try": 1, "reason": reason, "nodes": nodes, "wait_s": 20.0, **body}
    return JobEvent(type="schedule", time=AT, body=fields)


def why(state: str, *events: JobEvent, **record: Any) -> Why:
    return explain(SPEC, JobRecord(state=state, rounds=5, **record), events)


def pending(**more: Any) -> dict[str, Any]:
    return {"state": "pending", "needs": ["data", "plan"], "grant": "g7", "contact": "dpo@a.example", **more}


@pytest.mark.feature("PS-55")
def test_a_waiting_job_names_the_owners_what_they_must_allow_and_whom_to_ask() -> None:
    said = why("waiting", grants={"node-a": pending(), "node-b": {"state": "granted"}})
    assert (said.gate, said.nodes) == ("grants", ("node-a",))
    assert str(said) == (
        "It waits at the grants gate: owners have to decide.\n"
        "node-a: its owner has to allow the data and plan on dataset heart. Request g7. Ask dpo@a.example."
    )


@pytest.mark.feature("PS-55", "TB-51", "NV-34")
@pytest.mark.parametrize(
    ("reason", "said", "meaning", "line"),
    [
        (
            "no_workers",
            "no_workers",
            "nodes have no workers: no free worker will come until their owners start some (no_workers).",
            "node-a: it has no workers, so there is no free worker for this job. Ask it@a.example.",
        ),
        (
            "required_missing",
            "offline",
            "a node that the quorum requires is not there (required_missing).",
            "node-a: it did not answer: it is offline, or its daemon is not running. Ask it@a.example.",
        ),
        (
            "resources",
            "resources: gpus, memory",
            "nodes lack resources that the job asks for (resources).",
            "node-a: it lacks resources: gpus, memory. Ask it@a.example.",
        ),
        (
            "outside_hours",
            "outside_hours",
            "nodes are outside their working hours (outside_hours).",
            "node-a: it is outside its working hours. Ask it@a.example.",
        ),
    ],
)
def test_a_queued_job_names_the_gate_the_node_and_whom_to_ask(
    reason: str, said: str, meaning: str, line: str
) -> None:
    nodes = {"node-a": said, "node-b": "ok"}
    found = why("queued", tried(reason, nodes, contacts={"node-a": "it@a.example"}))
    assert (found.gate, found.reason, found.nodes) == ("scheduling", reason, ("node-a",))
    assert str(found).splitlines() == [
        f"It waits at the scheduling gate: {meaning}",
        "Try 1 was at 22:13:20 UTC; the next comes 20 s after it, or when a node appears.",
        line,
    ]


@pytest.mark.feature("PS-55")
def test_the_place_in_a_nodes_queue_is_told() -> None:
    found = why("queued", tried("resources", {"node-a": "resources: gpus"}, ahead={"node-a": 3}))
    assert "3 tasks wait there before this job's." in str(found)


def test_a_job_without_a_slot_says_so() -> None:
    assert why("queued").gate == "slot"
    assert "max_jobs" in str(why("queued"))


def test_a_running_job_tells_what_its_nodes_are_at() -> None:
    events = [
        JobEvent(type="ask", round=2, body={"step": "train", "nodes": ["node-a", "node-b"]}),
        JobEvent(type="state", node="node-a", task="k1", round=2, body={"state": "running", "worker": 7}),
        JobEvent(type="state", node="node-b", task="k2", round=2, body={"state": "completed"}),
    ]
    found = why("running", *events)
    assert (found.gate, found.nodes) == ("nodes", ("node-a",))
    assert str(found) == "It runs: round 2 of 5.\nnode-a: its task is running in worker 7."


@pytest.mark.parametrize(
    ("state", "gate"),
    [
        ("draft", "draft"),
        ("starting", "nodes"),
        ("stopping", "nodes"),
        ("failed", "ended"),
        ("lost", "ended"),
    ],
)
def test_every_state_has_an_answer(state: str, gate: str) -> None:
    found = why(state, reason="timeout", detail="round 3 took longer")
    assert found.gate == gate
    assert str(found)
    if gate == "ended":
        assert "it took longer than it was given" in str(found)


def test_tries_are_those_of_the_last_attempt_and_odd_events_do_no_harm() -> None:
    ended = JobEvent(type="state", body={"state": "unschedulable"})
    again = JobEvent(type="state", body={"state": "waiting"})
    later = tried("resources", {"node-a": "offline"}, **{"try": 1})
    events = [tried("no_workers", {}), ended, again, later]
    assert [one.reason for one in tries_of(events)] == ["resources"]
    queued_again = [tried("no_workers", {}), again, later]
    assert len(tries_of(queued_again)) == 2
    assert tries_of([JobEvent(type="schedule", body={"nodes": 3, "ahead": {"a": "x"}})])[0].nodes == {}
    assert tasks_of([JobEvent(type="state", body={"state": "running"})]) == []


def test_of_a_thousand_nodes_that_hold_a_job_up_a_few_have_a_line_each() -> None:
    nodes = {f"node-{k:04d}": "offline" for k in range(1000)}
    found = why("queued", tried("required_missing", nodes))
    assert len(found.nodes) == 1000
    assert len(found.lines) == 23
    assert found.lines[-1] == "And 980 more nodes: `nodes` of this answer names them all."
    waiting = why("waiting", grants=dict.fromkeys(nodes, pending()))
    assert (len(waiting.nodes), len(waiting.lines)) == (1000, 22)
    draft = why("draft", grants=dict.fromkeys(nodes, pending()))
    assert len(str(draft)) < 300
