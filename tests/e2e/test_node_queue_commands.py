"""What an owner types to look at the queue, to end a task, and to read what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Result
from tests.e2e.test_node_kills import KilledNode, ann, hub_url, shared
from tests.integration.nodes import ADD_ONE, Researcher, plan_with
from tests.processes import Processes, Running, wait_until

__all__ = ["ann", "hub_url", "shared"]

pytestmark = pytest.mark.timeout(300)

SPEAKS = "print('x', flush=True)\nprint('y', file=sys.stderr, flush=True)\nwhile True: time.sleep(0.05)"


@pytest.fixture(scope="module")
def node(shared: tuple[Processes, Path], hub_url: str) -> KilledNode:
    made = KilledNode(*shared, hub_url, "queue")
    types(made, "config", "set", "cpus", "4")
    return made


@pytest.fixture
def daemon(node: KilledNode) -> Iterator[Running]:
    command = ("fedjob", "node", "start", "--home", node.home.root)
    process = node.processes.start(*command, ready="node ready", fork=True)
    yield process
    process.stop()


def types(node: KilledNode, *words: str, expect: int = 0) -> str:
    done = node.processes.run("fedjob", "node", *words, "--home", node.home.root, expect=expect)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


def listed(node: KilledNode, job: str) -> list[dict[str, Any]]:
    return [task for task in json.loads(types(node, "tasks", "--json")) if task["job"] == job]


def in_states(node: KilledNode, ann: Researcher, *expected: str) -> None:
    """Wait until the tasks of a researcher's job are in these states; what got lost is sent again meanwhile."""
    ann.take(lambda _: [task["state"] for task in listed(node, ann.job)] == list(expected), timeout_s=120)


@pytest.mark.feature("PS-47", "PS-43")
def test_an_owner_looks_at_a_task_reads_its_log_and_ends_it(
    node: KilledNode,
    daemon: Running,
    ann: Researcher,
) -> None:
    ann.job = new_job_id()
    task = ann.task(plan_with(SPEAKS), "Odd", resources={"cpus": 3}, project="cardio")
    sent = ann.train("queue", task)
    in_states(node, ann, "running")
    (row,) = listed(node, ann.job)
    assert (row["job"], row["round"], row["step"], row["dataset"], row["researcher"], row["project"]) == (
        ann.job, 1, "train", "toy", "ann", "cardio",
    )  # fmt: skip
    assert (row["reason"], row["ended"], row["parent"], row["children"]) == ("", None, "", 0)
    key = row["key"]
    wait_until(
        lambda: "y" in json.loads(types(node, "logs", key, "--json"))["stderr"], timeout_s=60, what="y"
    )
    assert json.loads(types(node, "logs", key[:12], "--json"))["stdout"] == ["x"]

    told = lambda: json.loads(types(node, "status", "--json"))  # noqa: E731
    wait_until(lambda: told()["held"] and told()["worker_processes"], timeout_s=30, what="what it holds")
    status = told()
    (held,) = status["held"]
    assert (held["job"], held["cpus"]) == (ann.job, 3.0)
    assert status["queue"] == {"running": 1}
    assert [w["pid"] for w in status["worker_processes"]] == [row["worker"]]
    assert "held" in types(node, "status")

    assert f"task {key[:12]} is killed" in types(node, "kill", key[:12])
    assert not Path(f"/proc/{row['worker']}").exists()
    result = ann.answer_to(sent, Result)
    assert (result.ok, result.reason) == (False, "killed_by_owner")
    assert "is killed already" in types(node, "kill", key, expect=1)
    assert "no task begins with 'ffff'" in types(node, "logs", "ffff", expect=1)
    assert "x" in types(node, "logs", key, "--release")
    ann.take(lambda got: [m for m in got if getattr(m.body, "lasting", False) and m.task == key])
    ann.end("queue")


@pytest.mark.feature("PS-43")
def test_a_task_that_a_stop_interrupts_is_taken_up_at_the_next_start(
    node: KilledNode,
    daemon: Running,
    ann: Researcher,
) -> None:
    ann.job = new_job_id()
    ann.train("queue", ann.task(plan_with(SPEAKS), "Odd"))
    in_states(node, ann, "running")
    assert "node stopped" in types(node, "stop")
    assert [task["state"] for task in listed(node, ann.job)] == ["stopping"]
    again = node.processes.start("fedjob", "node", "start", "--home", node.home.root, ready="node ready")
    try:
        in_states(node, ann, "running")
        ann.end("queue")
        in_states(node, ann, "killed")
    finally:
        again.stop()


def test_node_states_are_listed_and_dropped(
    node: KilledNode,
    daemon: Running,
    ann: Researcher,
) -> None:
    ann.job = new_job_id()
    momentum = ADD_ONE.replace("lr=0.1", "lr=0.1, momentum=0.9")
    assert ann.result("queue", ann.task(momentum, "AddOne")).ok
    (row,) = json.loads(types(node, "state", "list", "--json"))
    assert (row["job"], row["states"]) == (ann.job, 1)
    assert row["size_bytes"] > 0
    assert "removed 1 node state" in types(node, "state", "drop", ann.job)
    assert json.loads(types(node, "state", "list", "--json")) == []
    assert "keeps no state here" in types(node, "state", "drop", ann.job, expect=1)
    ann.end("queue")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hours", "Monday to Friday"),
        ("pools", "gpu workers=1"),
        ("memory", "much"),
        ("launcher_options", "fast"),
        ("workers", "-1"),
        ("logs_private", "some"),
    ],
)
def test_settings_that_mean_nothing_are_refused(node: KilledNode, key: str, value: str) -> None:
    assert f"found {value!r}" in types(node, "config", "set", key, value, expect=1)
