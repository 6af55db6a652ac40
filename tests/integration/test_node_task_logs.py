"""What user code writes: kept at the node by task, shown to researchers as the owner's rule says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Event, Message, Ping, Pong, Result
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.queue.store import TaskStore
from fedjob.node.storage.logs import RULES, read_log
from tests.integration.nodes import Federation, Node, plan_with
from tests.integration.test_node_queue import configure, end_all
from tests.processes import wait_until

OPEN = NodeConfig(approval="off", contact="dr.lee@clinic-a")
SPEAKS = """\
print("x")
print("y", file=sys.stderr)
os.system("echo from a child")"""
FAILS = SPEAKS + "\nraise ValueError(f'patient {float(inputs[0, 0])} is not valid')"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    federation = Federation(tmp_path_factory.mktemp("logs"))
    made = federation.node(config=OPEN)
    with made.database() as database:
        datasets = Datasets(database)
        datasets.remove("toy")
        path = made.folder / "toy.npz"
        datasets.add(describe_dataset("toy", path, tags=["toy"], mock=path))
    made.start()
    try:
        yield made
    finally:
        federation.close()


@pytest.fixture
def node(shared: Node) -> Iterator[Node]:
    """The node with its first settings; what a test leaves running is ended."""
    configure(shared, OPEN)
    shared.federation.ann.received.clear()
    yield shared
    end_all(shared)


def run(node: Node, step: str, **more: Any) -> tuple[Result, list[Message]]:
    """Run a plan with this step, and return its result and all that came on the way."""
    ann = node.federation.ann
    ann.job = new_job_id()
    ann.received.clear()
    result = ann.result("node1", ann.task(plan_with(step), "Odd", **more))
    ann.answer_to(ann.send("node1", Ping()), Pong)  # what is said of the result has come by then
    return result, [m for m in ann.received if m.job == ann.job]


def logged(messages: list[Message]) -> list[dict[str, Any]]:
    return [m.body.data for m in messages if isinstance(m.body, Event) and m.body.type == "log"]


def said(messages: list[Message], stream: str) -> list[str]:
    return [line for data in logged(messages) if data.get("stream") == stream for line in data["lines"]]


@pytest.mark.feature("PS-45")
def test_what_a_mock_run_prints_comes_while_it_runs(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    step = "print('x', flush=True)\ntime.sleep(600)"
    ann.train("node1", ann.task(plan_with(step), "Odd", use="mock"))
    ann.take(lambda got: said(got, "stdout") == ["x"])
    (event,) = [m for m in ann.received if isinstance(m.body, Event) and m.body.type == "log"]
    assert (event.job, event.round, bool(event.task)) == (ann.job, 1, True)
    assert not any(isinstance(m.body, Result) for m in ann.received)


@pytest.mark.feature("PS-48")
@pytest.mark.parametrize("use", ["mock", "private"])
@pytest.mark.parametrize("rule", list(RULES))
def test_each_rule_lets_through_its_streams(node: Node, use: str, rule: str) -> None:
    other = "all" if rule == "none" else "none"
    configure(node, replace(OPEN, **{f"logs_{use}": rule, f"logs_{_not(use)}": other}))  # type: ignore[arg-type]
    result, messages = run(node, SPEAKS, use=use)
    assert result.ok
    key = result.key
    out = ["x", "from a child", "x", "from a child"]
    assert read_log(node.home, key, "stdout") == out
    assert read_log(node.home, key, "stderr") == ["y", "y"]
    assert said(messages, "stdout") == (out if "stdout" in RULES[rule] else [])
    assert said(messages, "stderr") == (["y", "y"] if "stderr" in RULES[rule] else [])
    withheld = [data for data in logged(messages) if data["withheld"]]
    assert withheld == ([] if rule == "all" else [{"withheld": True, "contact": OPEN.contact}])


def _not(use: str) -> str:
    return "mock" if use == "private" else "private"


@pytest.mark.feature("PS-63", "PS-41")
def test_the_words_of_an_error_on_private_data_stay_at_the_node(node: Node) -> None:
    result, messages = run(node, FAILS)
    assert (result.ok, result.reason, result.detail, result.trace) == (
        False,
        "exception",
        "ValueError at plan line 26",
        "",
    )
    assert "patient" not in str(messages)
    kept = "\n".join(read_log(node.home, result.key, "stderr"))
    assert "Traceback" in kept
    assert "is not valid" in kept
    with node.database() as database:
        (task,) = [t for t in TaskStore(database).list_tasks() if t["key"] == result.key]
    assert (task["state"], task["reason"]) == ("failed", "exception")


@pytest.mark.feature("PS-41")
def test_the_traceback_of_an_error_on_mock_data_is_told_in_full(node: Node) -> None:
    result, messages = run(node, FAILS, use="mock")
    assert "is not valid" in result.detail
    assert "Traceback" in result.trace
    assert any("is not valid" in line for line in said(messages, "stderr"))


@pytest.mark.feature("PS-47")
def test_a_log_is_withheld_until_its_owner_releases_it(node: Node) -> None:
    result, messages = run(node, FAILS)
    assert logged(messages) == [{"withheld": True, "contact": "dr.lee@clinic-a"}]
    ann = node.federation.ann
    with node.database() as database:
        TaskStore(database).order("release", result.key)
    ann.take(lambda got: said(got, "stderr"))
    assert said(ann.received, "stdout") == ["x", "from a child"]
    assert any("is not valid" in line for line in said(ann.received, "stderr"))
    (event, *_) = [m for m in ann.received if isinstance(m.body, Event) and m.body.lasting]
    assert (event.job, event.task, event.round) == (ann.job, result.key, 1)
    with node.database() as database:
        assert TaskStore(database).orders() == []


def test_the_log_of_a_killed_task_is_kept(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    step = "print('last words', flush=True)\ntime.sleep(600)"
    ann.train("node1", ann.task(plan_with(step), "Odd"))
    wait_until(lambda: "last words" in node.printed(), timeout_s=60, what="the training to begin")
    with node.database() as database:
        store = TaskStore(database)
        (task,) = [t for t in store.list_tasks() if t["job"] == ann.job]
        store.order("kill", task["key"])
        wait_until(lambda: store.find_task(task["key"])["state"] == "killed", timeout_s=30, what="the end")
    assert read_log(node.home, task["key"], "stdout") == ["last words"]


def test_a_plan_cant_speak_for_the_node(node: Node) -> None:
    step = "self.ctx.emit('log', {'stream': 'stdout', 'lines': [str(inputs)]})\nself.ctx.emit('state', {'state': 'killed'})"
    result, messages = run(node, step)
    assert result.ok
    assert logged(messages) == []
    assert "killed" not in str([m.body for m in messages])
