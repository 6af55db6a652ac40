"""How a job stands as its events tell, and how that looks to a person."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from fedjob.common.lifecycle import State
from fedjob.researcher.monitoring.live import Live
from fedjob.researcher.monitoring.summary import CODES, JobSummary, Snapshot, as_html, many_lines, one_line
from fedjob.researcher.storage.event import JobEvent

ID = "job_0b6e1f0a-0000-4000-8000-000000000001"


def live(*told: tuple[str, str, int, dict[str, Any]]) -> Live:
    """Return what (type, node, round, body) at seconds 1, 2, 3, ... come to."""
    return Live().after(
        JobEvent(type=type_, seq=k, time=float(k), node=node, round=round_, body=body)
        for k, (type_, node, round_, body) in enumerate(told, 1)
    )


RUNNING = ("state", "", 0, {"state": "running"})


def ask(*nodes: str) -> tuple[str, str, int, dict[str, Any]]:
    return ("ask", "", 1, {"step": "train", "nodes": list(nodes)})


def progress(node: str, done: float, total: float) -> tuple[str, str, int, dict[str, Any]]:
    return ("progress", node, 1, {"done": done, "total": total})


@pytest.mark.feature("PS-67")
def test_three_of_ten_is_thirty_percent() -> None:
    found = live(RUNNING, ask("a"), progress("a", 3, 10)).progress(1, now=4.0)
    assert (found.done, found.total, found.percent) == (3, 10, 30.0)
    assert found.eta_s == pytest.approx(7.0)  # 3 in 3 seconds
    assert str(found) == "30 %, 7 s left, slowest a"


@pytest.mark.feature("BF-17")
def test_progress_is_over_all_nodes_and_names_the_slowest() -> None:
    found = live(RUNNING, ask("a", "b"), progress("a", 8, 10), progress("b", 5, 20)).progress(2, now=5.0)
    done, total, eta_s, slowest = found
    assert (done, total, slowest) == (13, 60, "b")
    assert eta_s == pytest.approx(4.0 * 47 / 13)


def test_a_node_that_has_said_nothing_counts_like_the_others() -> None:
    found = live(RUNNING, ask("a", "b"), progress("a", 10, 10)).progress(1, now=5.0)
    assert (found.done, found.total) == (10, 20)


def test_where_nodes_count_nothing_rounds_are_counted() -> None:
    rounds = [("round", "", k, {"nodes": ["a"], "left_out": {}, "seconds": 1.0}) for k in (1, 2, 3)]
    found = live(RUNNING, *rounds).progress(12, now=4.0)
    assert (found.done, found.total, found.percent, found.slowest) == (3, 12, 25.0, "")
    assert found.eta_s == pytest.approx(9.0)
    assert live().progress(12, now=4.0)[:3] == (0, 12, None)


def test_an_attempt_that_goes_on_from_a_breakpoint_reckons_with_its_own_pace() -> None:
    resumed = ("state", "", 6, {"state": "running"})
    one = ("round", "", 7, {"nodes": ["a"], "left_out": {}, "seconds": 1.0})
    found = live(resumed, one).progress(10, now=3.0)
    assert (found.done, found.eta_s) == (7, pytest.approx(2.0 * 3))


def test_a_completed_job_has_nothing_left() -> None:
    one = ("round", "", 1, {"nodes": ["a"], "left_out": {}, "seconds": 1.0})
    found = live(RUNNING, one, ("state", "", 1, {"state": "completed"})).progress(1, now=9.0)
    assert (found.percent, found.eta_s) == (100.0, 0.0)


def test_the_last_of_each_metric_stands_per_node() -> None:
    found = live(
        ("metrics", "a", 1, {"phase": "train", "loss": 0.5}),
        ("metrics", "b", 1, {"loss": 0.9}),
        ("metrics", "a", 2, {"phase": "test", "accuracy": 0.75}),
        ("metrics", "a", 2, {"phase": "train", "loss": "nan"}),
    ).metrics
    assert found["b"] == {"loss": 0.9}
    assert found["a"]["accuracy"] == 0.75
    assert found["a"]["loss"] != found["a"]["loss"]


WAITING: Live = live(
    ("state", "", 0, {"state": "waiting"}),
    ("grant", "", 0, {"waiting": ["node-b"], "contacts": {"node-b": "bob@b.example"}}),
)
QUEUED: Live = WAITING.after(
    [
        JobEvent(type="state", seq=8, time=1727819821.0, body={"state": "queued"}),
        JobEvent(
            type="schedule",
            seq=9,
            time=1727819821.0,
            body={"try": 1, "reason": "quorum", "nodes": {"node-a": "ok", "node-b": "no_free_worker"}},
        ),
    ]
)
BUSY: Live = live(
    RUNNING,
    ask("node-a", "node-b"),
    ("state", "node-a", 1, {"state": "running", "worker": 4711}),
    progress("node-a", 3, 10),
    progress("node-b", 6, 10),
)


def facts(state: str, **more: Any) -> JobSummary:
    values: dict[str, Any] = {
        "id": ID,
        "name": "heart",
        "protocol": "fedavg",
        "plan": "HeartPlan (ab12cd34ef56)",
        "state": state,
        "rounds": 4,
        "round": 2,
        "attempt": 1,
        "nodes": ("node-a", "node-b"),
        "owner": "ann",
        "created": "2024-10-01T21:00:00Z",
        "updated": "2024-10-01T21:57:01Z",
    }
    return JobSummary(**{**values, **more})


TWO = "2 nodes: node-a, node-b"
LINES: dict[str, tuple[JobSummary, str]] = {
    "draft": (facts("draft"), f"heart (job_0b6e1f0a): draft, {TWO}"),
    "waiting": (
        facts("waiting", live=WAITING, round=0),
        f"heart (job_0b6e1f0a): waiting, round 0 of 4, {TWO}; waits for the owner of node-b (ask bob@b.example) to decide",
    ),
    "queued": (
        facts("queued", live=QUEUED, round=0),
        f"heart (job_0b6e1f0a): queued, round 0 of 4, {TWO}; waits to start at node-b (ask bob@b.example): no_free_worker",
    ),
    "starting": (facts("starting"), f"heart (job_0b6e1f0a): starting, round 2 of 4, {TWO}"),
    "running": (
        facts("running", live=BUSY, round=0, progress=BUSY.progress(4, now=10.0)),
        f"heart (job_0b6e1f0a): running, round 0 of 4, {TWO}; 11 %, 71 s left, slowest node-a",
    ),
    "stopping": (
        facts("stopping", reason="killed"),
        f"heart (job_0b6e1f0a): stopping (killed), round 2 of 4, {TWO}",
    ),
    "completed": (facts("completed", round=4), f"heart (job_0b6e1f0a): completed, round 4 of 4, {TWO}"),
    "failed": (
        facts("failed", reason="exception", detail="ValueError in line 3"),
        f"heart (job_0b6e1f0a): failed (exception: ValueError in line 3), round 2 of 4, {TWO}",
    ),
    "killed": (
        facts("killed", reason="killed"),
        f"heart (job_0b6e1f0a): killed, round 2 of 4, {TWO}",
    ),
    "lost": (
        facts("lost", reason="runner_died", name=""),
        f"job_0b6e1f0a: lost (runner_died), round 2 of 4, {TWO}",
    ),
    "rejected": (
        facts("rejected", reason="rejected", round=0),
        f"heart (job_0b6e1f0a): rejected, round 0 of 4, {TWO}",
    ),
    "cancelled": (facts("cancelled", round=0), f"heart (job_0b6e1f0a): cancelled, round 0 of 4, {TWO}"),
    "unschedulable": (
        facts("unschedulable", reason="no_workers", round=0, nodes=()),
        "heart (job_0b6e1f0a): unschedulable (no_workers), round 0 of 4, no nodes yet",
    ),
}


@pytest.mark.feature("TB-52")
@pytest.mark.parametrize("state", list(State))
def test_one_line_says_state_round_nodes_and_what_a_job_waits_for(state: str) -> None:
    shown, line = LINES[state]
    assert one_line(shown) == line


@pytest.mark.feature("PS-39")
def test_a_queued_job_names_the_node_and_its_contact() -> None:
    for shown in (facts("queued", live=QUEUED), facts("queued", contacts={"node-b": "bob@b.example"})):
        assert "node-b (ask bob@b.example)" in one_line(shown)


@pytest.mark.feature("PS-33")
def test_the_essentials_of_a_queued_and_of_a_completed_job() -> None:
    assert many_lines(facts("queued", live=QUEUED, round=0)) == (
        "job          job_0b6e1f0a-0000-4000-8000-000000000001\n"
        "name         heart\n"
        "protocol     fedavg\n"
        "plan         HeartPlan (ab12cd34ef56)\n"
        "state        queued\n"
        "waits        to start at node-b (ask bob@b.example): no_free_worker\n"
        "round        0 of 4\n"
        "nodes        node-a, node-b\n"
        "owner        ann\n"
        "created      2024-10-01 21:00:00 UTC\n"
        "updated      2024-10-01 21:57:01 UTC\n"
        "attempt      1\n"
        "result       not ready: the job is queued"
    )
    ended = facts("completed", live=BUSY, round=4)
    assert many_lines(ended).splitlines()[4:7] == [
        "state        completed",
        "round        4 of 4",
        "nodes        node-a (running on worker 4711), node-b",
    ]
    assert many_lines(ended).splitlines()[-1] == "result       ready"
    assert '><span class="fj-chip fj-good">completed</span></td>' in as_html(ended)
    assert "&lt;b&gt;" in as_html(facts("draft", name="<b>"))


def test_child_tasks_are_counted() -> None:
    found = live(
        ("state", "node-a", 1, {"state": "running", "worker": 1}),
        ("state", "node-a", 1, {"state": "running", "parent": "ab"}),
    )
    assert found.num_children == 1
    assert found.nodes["node-a"].worker == 1


@pytest.mark.feature("TB-28")
@pytest.mark.parametrize("state", list(State))
def test_every_state_has_its_code(state: State) -> None:
    expected = {"waiting": 1, "queued": 2, "starting": 3, "running": 3, "stopping": 3, "completed": 4}
    assert CODES[state] == expected.get(state, 10)


def test_a_snapshot_can_not_be_changed() -> None:
    shot = Snapshot(
        id=ID,
        name="",
        state="draft",
        code=10,
        time=1.0,
        attempt=0,
        round=0,
        rounds=1,
        reason=None,
        error=None,
    )
    with pytest.raises(FrozenInstanceError):
        shot.state = "completed"  # type: ignore[misc]
