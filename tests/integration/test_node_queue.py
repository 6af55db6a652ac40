"""The queue of a node: who starts when, on what, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Answer, Ping, Pong, Result
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.hours import DAYS
from fedjob.node.grants.decisions import Grants
from fedjob.node.queue.store import TaskStore
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher, plan_with
from tests.processes import wait_until

OPEN = NodeConfig(approval="off")
FOR_EVER = "while True: time.sleep(0.05)"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("queue"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared(federation: Federation) -> Node:
    return federation.node(config=OPEN).start()


@pytest.fixture
def node(shared: Node, federation: Federation) -> Iterator[Node]:
    """The node with its first settings; what a test leaves running is ended."""
    ann = federation.ann
    ann.received.clear()
    configure(shared, OPEN)
    yield shared
    end_all(shared)


def end_all(node: Node) -> None:
    """End the jobs of Ann that a node still keeps, and read all that it says of them."""
    ann = node.federation.ann
    for task in listed(node).values():
        if task["released"] is None and task["researcher"] == "ann":
            ann.job = task["job"]
            ann.end("node1", epoch=100)
    ann.take(lambda _: not [t for t in listed(node).values() if t["released"] is None])
    ann.answer_to(ann.send("node1", Ping()), Pong)  # it comes after all that was said of them


def configure(node: Node, config: NodeConfig) -> None:
    """Change the settings, as the owner does while the node runs."""
    node.config = config
    daemon = node.daemon
    assert daemon is not None
    wait_until(lambda: daemon._context.config == config, timeout_s=30, what="the node to follow its settings")


def listed(node: Node) -> dict[str, dict[str, Any]]:
    """What `fedjob node tasks` shows, by job."""
    with node.database() as database:
        return {task["job"]: task for task in reversed(TaskStore(database).list_tasks())}


def ordered(node: Node, verb: str, key: str) -> None:
    with node.database() as database:
        TaskStore(database).order(verb, key)


def states(ann: Researcher, job: str) -> list[str]:
    """The states that the researcher was told of a job's only task."""
    ann.received += (messages := ann.endpoint.receive(0.05))
    ann.endpoint.settle(messages)
    return [m.body.data["state"] for m in ann.received if m.job == job and _type(m.body) == "state"]


def told(ann: Researcher, job: str, *expected: str) -> None:
    """Wait until the researcher was told these states of a job's only task, and no others."""
    wait_until(lambda: states(ann, job) == list(expected), timeout_s=30, what=f"{expected} to be told")


def _type(body: object) -> str:
    return getattr(body, "type", "")


def begin(ann: Researcher, step: str = FOR_EVER, *, node: str = "node1", **more: Any) -> str:
    """Send a task of a new job, and return the job."""
    ann.job = new_job_id()
    ann.train(node, ann.task(plan_with(step), "Odd", **more))
    return ann.job


def answered(ann: Researcher, job: str) -> Result:
    """The result of a job's task, when it has come."""
    found = lambda got: [m.body for m in got if m.job == job and isinstance(m.body, Result)]  # noqa: E731
    results: list[Result] = ann.take(found)
    return results[-1]


def is_in(node: Node, job: str, *wanted: str) -> bool:
    return listed(node).get(job, {}).get("state") in wanted


def until(node: Node, job: str, *wanted: str, timeout_s: float = 30.0) -> None:
    wait_until(
        lambda: is_in(node, job, *wanted), timeout_s=timeout_s, what=f"the task to be {' or '.join(wanted)}"
    )


@pytest.mark.feature("PS-06")
def test_with_one_worker_tasks_start_in_the_order_of_submission(federation: Federation, node: Node) -> None:
    ann = federation.ann
    jobs = [begin(ann, "pass") for _ in range(3)]
    for job in jobs:
        until(node, job, "completed")
    found = listed(node)
    assert sorted(jobs, key=lambda job: found[job]["started"]) == jobs
    for earlier, later in pairwise(jobs):
        assert found[earlier]["ended"] <= found[later]["started"], "one at a time"


@pytest.mark.feature("PS-07")
def test_more_workers_let_the_tasks_begin_that_queue(federation: Federation, node: Node) -> None:
    ann = federation.ann
    jobs = [begin(ann) for _ in range(3)]
    until(node, jobs[0], "running")
    for job in jobs[1:]:
        until(node, job, "queued")
    configure(node, replace(OPEN, workers=3))
    for job in jobs[1:]:
        until(node, job, "running")
    assert len({listed(node)[job]["worker"] for job in jobs}) == 3


@pytest.mark.feature("PS-03")
def test_four_workers_sleep_side_by_side(federation: Federation, node: Node) -> None:
    configure(node, replace(OPEN, workers=4))
    ann = federation.ann
    jobs = [begin(ann, "time.sleep(8)") for _ in range(4)]
    wait_until(
        lambda: [listed(node).get(job, {}).get("state") for job in jobs] == ["running"] * 4,
        timeout_s=60, what="all four to run at the same time",
    )  # fmt: skip
    for job in jobs:
        until(node, job, "completed")


@pytest.mark.feature("PS-08")
def test_a_ping_is_answered_at_once_while_a_task_computes(federation: Federation, node: Node) -> None:
    ann = federation.ann
    job = begin(ann, "while True: pass")
    until(node, job, "running")
    took = []
    for _ in range(3):  # the machine may stand still for one of them
        began = time.monotonic()
        pong = ann.answer_to(ann.send("node1", Ping()), Pong)
        took.append(time.monotonic() - began)
    assert min(took) < 1.0
    assert (pong.busy, pong.free, pong.ready) == (1, 0, True)
    assert 0 <= pong.last_task <= time.time()  # of an earlier task, if there was one
    assert pong.versions["torch"] == version("torch")


@pytest.mark.feature("PS-12")
def test_a_node_without_workers_queues_and_says_so(federation: Federation, node: Node) -> None:
    configure(node, replace(OPEN, workers=0))
    ann = federation.ann
    answer = ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer)
    assert (answer.status, answer.schedule, answer.workers) == ("not-needed", "no_workers", 0)
    job = begin(ann, "pass")
    until(node, job, "queued")
    assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).ahead == 1
    configure(node, OPEN)
    until(node, job, "completed")


@pytest.mark.feature("PS-13")
def test_a_new_node_has_one_worker() -> None:
    assert NodeConfig().workers == 1


@pytest.mark.feature("PS-37")
def test_the_worker_and_the_time_of_its_start_are_known_once_a_task_was_picked_up(
    federation: Federation,
    node: Node,
) -> None:
    ann = federation.ann
    first, second = begin(ann), begin(ann)
    until(node, first, "running")
    until(node, second, "queued")
    running, queued = listed(node)[first], listed(node)[second]
    assert (queued["state"], queued["worker"], queued["updated"], queued["started"]) == (
        "queued",
        0,
        None,
        None,
    )
    assert Path(f"/proc/{running['worker']}").exists()
    assert running["accepted"] <= running["started"] <= running["updated"] <= time.time()
    told(ann, first, "starting", "running")
    assert {m.task for m in ann.received if m.job == first} == {running["key"]}


@pytest.mark.feature("PS-43")
def test_a_killed_task_is_stopping_before_it_is_killed(federation: Federation, node: Node) -> None:
    from fedjob.messaging.messages import End

    ann = federation.ann
    job = begin(ann)
    waiting = begin(ann)
    until(node, job, "running")
    for over in (job, waiting):
        ann.job = over
        ann.send("node1", End(outcome="killed"), epoch=1)
    until(node, job, "killed")
    until(node, waiting, "cancelled")
    assert listed(node)[job]["reason"] == "killed"
    told(ann, job, "starting", "running", "stopping", "killed")
    told(ann, waiting, "cancelled")


@pytest.mark.feature("PS-43")
def test_a_stopped_node_stops_its_task_and_takes_it_up_at_the_next_start(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    job = begin(ann)
    until(node, job, "running")
    node.stop()
    stopped = listed(node)[job]
    assert (stopped["state"], stopped["reason"]) == ("stopping", "node_stopped")
    wait_until(lambda: not Path(f"/proc/{stopped['worker']}").exists(), timeout_s=30, what="the worker's end")
    node.start()
    until(node, job, "running")
    told(ann, job, "starting", "running", "stopping", "starting", "running")
    assert listed(node)[job]["worker"] != stopped["worker"]


@pytest.mark.feature("PS-44")
def test_a_task_whose_process_is_killed_again_and_again_has_failed(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    job = begin(ann)
    killed: set[int] = set()
    for _ in range(3):
        until(node, job, "running")
        wait_until(lambda: listed(node)[job]["worker"] not in {0, *killed}, timeout_s=30, what="a new worker")
        pid = listed(node)[job]["worker"]
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: listed(node)[job]["worker"] not in killed or is_in(node, job, "failed"),
                   timeout_s=30, what="the death to be noticed")  # fmt: skip
    until(node, job, "failed")
    assert listed(node)[job]["reason"] == "worker_died"
    assert answered(ann, job).reason == "worker_died"


@pytest.mark.feature("TB-40")
def test_what_a_killed_plan_started_dies_with_it_wherever_it_hid(federation: Federation, node: Node) -> None:
    ann = federation.ann
    step = """\
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for flees in (False, True):
    if os.fork() == 0:
        if flees:
            os.setsid()
            if os.fork():
                os._exit(0)
        print("there", flush=True)
        while True: time.sleep(0.1)
print("there", flush=True)
while True: pass"""
    job = begin(ann, step)
    wait_until(lambda: node.printed().count("there") == 3, timeout_s=60, what="three processes")
    started = node.worker_processes()
    assert len(started) >= 3
    ann.end("node1")
    until(node, job, "killed")
    left = [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert left == [], "killed is only said when nothing is left"


@pytest.mark.feature("PS-44")
def test_the_owner_can_end_a_task_and_its_researcher_is_told(federation: Federation, node: Node) -> None:
    ann = federation.ann
    job = begin(ann)
    until(node, job, "running")
    ordered(node, "kill", listed(node)[job]["key"])
    result = answered(ann, job)
    assert (result.ok, result.reason) == (False, "killed_by_owner")
    assert is_in(node, job, "killed")
    told(ann, job, "starting", "running", "stopping", "killed")
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2).ok, "the worker is free"


@pytest.mark.feature("NV-22", "PS-68")
def test_labels_and_pools_choose_the_nodes(federation: Federation, node: Node) -> None:
    configure(node, replace(OPEN, labels="edge, gpu", pools="fast: workers=1"))
    federation.node("plain", config=OPEN).start()
    ann = federation.ann

    def short(node: str, **resources: Any) -> tuple[str, list[str]]:
        answer = ann.answer_to(ann.offer(node, ADD_ONE, "AddOne", resources=resources), Answer)
        return answer.schedule, answer.short

    for wanted in ({"labels": ["edge"]}, {"pool": "gpu"}, {"pool": "fast"}):
        (name,) = wanted
        assert short("node1", **wanted) == ("", [])
        assert short("plain", **wanted) == ("resources", [name])
    assert short("node1", labels=["edge", "arm"]) == ("resources", ["labels"])
    assert ann.answer_to(ann.send("node1", Ping()), Pong).labels == ["edge", "gpu"]
    result = ann.result("plain", ann.task(ADD_ONE, "AddOne", resources={"pool": "gpu"}))
    assert (result.ok, result.reason) == (False, "resources")


SEES = "print('{}', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"


@pytest.mark.feature("NV-03")
def test_two_jobs_never_hold_the_same_gpu(federation: Federation, node: Node) -> None:
    configure(node, replace(OPEN, workers=3, gpus=2))
    federation.node("none", config=OPEN).start()
    ann = federation.ann
    answer = ann.answer_to(ann.offer("none", ADD_ONE, "AddOne", resources={"gpus": 1}), Answer)
    assert (answer.schedule, answer.short) == ("resources", ["gpus"])
    jobs = [
        begin(ann, f"{SEES.format(name)}\n{FOR_EVER}", resources={"gpus": gpus})
        for name, gpus in zip(("first", "second", "third", "fourth"), (1, 1, 1, 0), strict=True)
    ]
    for job in (jobs[0], jobs[1], jobs[3]):
        until(node, job, "running")
    assert is_in(node, jobs[2], "queued"), "there is a worker for it, but no GPU"
    wait_until(lambda: {"first 0", "second 1", "fourth "} <= set(node.printed()), timeout_s=60, what="3")
    ann.job = jobs[1]
    ann.end("node1")
    until(node, jobs[2], "running")
    wait_until(lambda: "third 1" in node.printed(), timeout_s=60, what="the third")


def test_a_task_holds_only_the_gpus_that_its_grant_names(federation: Federation, node: Node) -> None:
    asks = replace(OPEN, approval="on", gpus=1)
    configure(node, asks)
    ann, text = federation.ann, plan_with(SEES.format("granted"))

    def offered(**resources: int) -> Answer:
        ann.job = new_job_id()
        return ann.answer_to(ann.offer("node1", text, "Odd", resources=resources), Answer)

    def asked() -> list[tuple[int, ...] | None]:
        with node.database() as database:
            return [grant.asked.gpus for grant in Grants(database).all("pending")]

    offered()
    assert asked() == [()]
    node.decide()
    assert offered().status == "granted"
    refused = ann.result("node1", ann.task(text, "Odd", resources={"gpus": 1}))
    assert (refused.ok, refused.reason) == (False, "plan_not_approved")
    assert "gpus is [0], approved was []" in refused.detail
    assert offered(gpus=1).status == "pending"
    assert asked() == [(0,)]
    node.decide()
    configure(node, replace(asks, gpus=3, workers=2))
    assert offered(gpus=1).status == "granted"
    held = begin(ann, f"{SEES.format('granted')}\n{FOR_EVER}", resources={"gpus": 1})
    assert answered(ann, held).reason == "plan_not_approved", "it is another plan"
    ann.job = new_job_id()
    assert ann.result("node1", ann.task(text, "Odd", resources={"gpus": 1})).ok
    assert {line for line in node.printed() if line.startswith("granted")} == {"granted 0"}
    assert offered(gpus=2).status == "pending", "1 and 2 are lent, and not granted"


@pytest.mark.feature("NV-58")
def test_an_offer_reserves_for_a_while_a_task_takes_it_and_the_end_frees_it(
    federation: Federation, node: Node
) -> None:
    long = replace(OPEN, cpus=4.0, workers=4, reserve_s=60.0)
    short = replace(long, reserve_s=1.0)
    configure(node, long)
    ann = federation.ann
    three = {"cpus": 3}

    def offered(job: str, *, reserve: bool = False) -> list[str]:
        ann.job = job
        offer = ann.offer("node1", ADD_ONE, "AddOne", resources=three, reserve=reserve)
        return ann.answer_to(offer, Answer).short

    first, second = new_job_id(), new_job_id()
    assert offered(first, reserve=True) == []
    assert offered(second) == ["cpus"], "it is held for the first"
    assert offered(first) == [], "which may have what it holds"
    configure(node, short)
    assert offered(first, reserve=True) == [], "it holds it for less time now"
    wait_until(lambda: offered(second) == [], timeout_s=30, what="the end of the lease")
    assert offered(second, reserve=True) == []
    ann.train("node1", ann.task(plan_with(FOR_EVER), "Odd", resources=three))
    until(node, second, "running")
    time.sleep(1.6)
    assert offered(first) == ["cpus"], "a task took it: the lease counts no more"
    node.stop()
    node.start()
    until(node, second, "running")
    assert offered(first) == ["cpus"], "after a restart the task holds what it needs again"
    ann.job = second
    ann.end("node1")
    until(node, second, "killed")
    configure(node, long)
    assert offered(first, reserve=True) == []
    node.stop()
    node.start()
    assert offered(second) == [], "a crash frees what was only reserved"


@pytest.mark.feature("NV-52")
def test_the_work_of_a_researcher_who_is_gone_is_given_up(federation: Federation, node: Node) -> None:
    configure(node, replace(OPEN, orphan_after_s=4.0))
    ann = federation.ann
    bob = Researcher(federation, "bob")
    job, queued = begin(bob), begin(bob)
    wait_until(lambda: "running" in states(bob, job), timeout_s=30, what="the task to run")
    over = time.monotonic() + 6.0
    while time.monotonic() < over:
        assert "lost" not in states(bob, job), "who receives is there"
    bob.endpoint.stop()
    configure(node, replace(OPEN, orphan_after_s=1.0))
    until(node, job, "lost")
    assert listed(node)[job]["reason"] == "abandoned"
    until(node, queued, "cancelled")
    configure(node, OPEN)
    ann.job = new_job_id()
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok, "the worker is free"


@pytest.mark.feature("NV-60")
def test_a_researcher_finds_the_tasks_it_does_not_know_and_ends_them(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    bob = Researcher(federation, "bob")
    zombie = begin(ann)
    until(node, zombie, "running")
    assert bob.answer_to(bob.send("node1", Ping()), Pong).jobs == []
    pong = ann.answer_to(ann.send("node1", Ping()), Pong)
    assert pong.jobs == [zombie]
    ann.end("node1", epoch=99)
    until(node, zombie, "killed")
    assert ann.answer_to(ann.send("node1", Ping()), Pong).jobs == []
    bob.endpoint.stop()


def test_outside_its_hours_a_node_queues_and_says_so(federation: Federation, node: Node) -> None:
    later = DAYS[(time.localtime().tm_wday + 3) % 7]
    configure(node, replace(OPEN, hours=f"{later} 10:00-11:00"))
    ann = federation.ann
    assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).schedule == "outside_hours"
    job = begin(ann, "pass")
    until(node, job, "queued")
    configure(node, OPEN)
    until(node, job, "completed")
