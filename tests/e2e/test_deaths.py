"""Nodes, hub and broker die in the middle of a job, and the repository fails: nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from fedjob import FedAvg, Job, JobFailed, Quorum, connect
from fedjob.common.http_client import Patience
from fedjob.node.config.home import NodeHome
from fedjob.repository.http import HttpRepository
from fedjob.researcher.jobs.session import Session
from tests.data import TRAINING
from tests.e2e.conftest import SITES
from tests.e2e.federation import PATIENCE_S, Federation, Node, background, digest
from tests.e2e.plans import Counting, Large, Points
from tests.e2e.proxy import FaultyProxy
from tests.processes import wait_until

PLANS = Path(__file__).with_name("plans.py")

pytestmark = [pytest.mark.timeout(500), pytest.mark.usefixtures("healed")]


def make_job(rough: Federation, plan: type = Points, **changes: object) -> Job:
    arguments = {
        "data": "points",
        "training_args": TRAINING,
        "rounds": 4,
        "seed": 9,
        "session": rough.session(),
    }
    return Job(FedAvg(), training_plan=plan, **{**arguments, **changes})  # type: ignore[arg-type]


def simulated(rough: Federation, home: Path, plan: type = Points, **changes: object) -> str:
    """Return the hash that the job ends in when nothing dies."""
    data = {name: str(rough.folder / f"points-{index}.npz") for index, name in enumerate(SITES)}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    job = make_job(rough, plan, **{**changes, "data": data, "nodes": "local", "home": home, "session": None})
    job.run(progress=False)
    torch.set_num_threads(before)
    return digest(job)


def in_round(job: Job, number: int) -> bool:
    """Whether a job has asked the nodes for that round."""
    return any(event.type == "ask" and event.round >= number for event in job.events())


def finished_work(node: Node, job: Job) -> set[int]:
    """Return the rounds whose training is complete and durable at a node that does not run."""
    home = NodeHome(node.home)
    kept = {path.parent.name for folder in (home.results, home.tasks) for path in folder.glob("*/result.mpk")}
    tasks = [task for task in node.json("tasks") if task["job"] == job.id]
    return {task["round"] for task in tasks if task["key"] in kept or task["state"] == "completed"}


@pytest.fixture
def tally(rough: Federation, tmp_path: Path) -> Callable[[str], Counter[int]]:
    """Return a function: node -> how often each round was trained there, by what the plan printed."""

    def count(node: str) -> Counter[int]:
        logs = (rough.nodes[node].home / "logs" / "tasks").glob("*.stdout")
        lines = [line.split() for log in logs for line in log.read_text().splitlines()]
        return Counter(int(line[2]) for line in lines if line[:2] == ["trained", str(tmp_path)])

    return count


def test_nodes_killed_at_random_take_up_their_work_and_repeat_none_that_is_done(
    rough: Federation, tmp_path: Path, tally: Callable[[str], Counter[int]]
) -> None:
    args = {**TRAINING, "num_updates": 10, "pause_s": 0.05, "tally": str(tmp_path)}
    rng = random.Random(5)
    job = make_job(rough, Counting, training_args=args)
    with background(lambda: job.run(progress=False)) as run:
        for number in (1, 2, 3):
            wait_until(
                lambda number=number: in_round(job, number), timeout_s=PATIENCE_S, what=f"round {number}"
            )
            node = rough.nodes[rng.choice(SITES)]
            time.sleep(rng.uniform(0.0, 0.8))  # the moment is what is random here
            if run.done():
                break
            node.kill()
            wait_until(lambda node=node: gone(node), timeout_s=30, what="the node's workers to end with it")
            before = tally(node.name)
            done = finished_work(node, job)
            node.start()
            rough.nodes[rng.choice(SITES)].kill_workers()
            wait_until(
                lambda number=number: run.done() or in_round(job, number + 1),
                timeout_s=PATIENCE_S,
                what=f"round {number} to go on",
            )
            after = tally(node.name)
            assert {number: after[number] for number in done} == {number: before[number] for number in done}
        run.result(timeout=PATIENCE_S)
    assert all(len(info.replied) == 3 for info in job.rounds.values())
    assert all(set(tally(name)) == {1, 2, 3, 4} for name in SITES)
    assert digest(job) == simulated(rough, tmp_path / "home", Counting, training_args=args)


def test_an_interrupted_job_is_killed_and_its_nodes_are_free(rough: Federation, tmp_path: Path) -> None:
    args = {**TRAINING, "num_updates": 10_000, "pause_s": 0.1, "tally": str(tmp_path)}
    about = {"plan": f"{PLANS}:Counting", "data": "points", "training_args": args, "rounds": 1}
    researcher = rough.research({"job": about})
    job = researcher.wait_for(r"^job: (\S+)")[1]
    mine = lambda node: [task["state"] for task in node.tasks() if task["job"] == job]  # noqa: E731
    node = rough.nodes[SITES[0]]
    wait_until(lambda: mine(node) == ["running"], timeout_s=PATIENCE_S, what="the work to begin")
    researcher.send(signal.SIGINT)
    assert researcher.wait(timeout_s=60) != 0
    (listed,) = [row for row in json.loads(rough.cli("job", "list", "--json").stdout) if row["id"] == job]
    assert (listed["state"], listed["reason"]) == ("killed", "interrupted")
    for node in rough.nodes.values():
        wait_until(lambda node=node: mine(node) == ["killed"], timeout_s=60, what=f"{node.name} to let go")
        assert not {"queued", "starting", "running", "stopping"} & node.status()["queue"].keys()


def test_what_a_test_leaves_at_work_is_ended_before_the_next_and_what_it_ended_runs_again(
    rough: Federation, tmp_path: Path
) -> None:
    args = {**TRAINING, "num_updates": 10_000, "pause_s": 0.1, "tally": str(tmp_path)}
    about = {"plan": f"{PLANS}:Counting", "data": "points", "training_args": args, "rounds": 1}
    researcher = rough.research({"job": about})
    for node in rough.nodes.values():
        wait_until(
            lambda node=node: "running" in [task["state"] for task in node.tasks()],
            timeout_s=PATIENCE_S,
            what="the work to begin",
        )
    rough.nodes[SITES[0]].kill()
    rough.tidy()
    assert not researcher.alive
    for node in rough.nodes.values():
        assert node.process is not None
        assert node.process.alive
        assert not {"queued", "starting", "running", "stopping"} & node.status()["queue"].keys()
    assert rough.hub.alive
    make_job(rough, rounds=1).run(progress=False)


def gone(node: Node) -> bool:
    """Whether nothing of a killed daemon is left: its fork server and workers notice its end."""
    home = str(node.home)
    for process in psutil.process_iter(["pid"]):
        try:
            if process.cwd().startswith(home):
                return False
        except (psutil.Error, OSError):
            continue
    return True


@pytest.mark.feature("BF-32", "FB-34", "FB-60")
def test_a_node_that_is_powered_off_is_left_out_after_the_deadline(rough: Federation, tmp_path: Path) -> None:
    make_job(rough, rounds=1).run(progress=False)  # torch is imported everywhere
    off = rough.nodes[SITES[2]]
    args = {**TRAINING, "num_updates": 10, "pause_s": 0.2, "tally": str(tmp_path)}
    quorum = Quorum(min_nodes=2, deadline_s=12)
    job = make_job(rough, Counting, training_args=args, rounds=1, quorum=quorum)
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: in_round(job, 1), timeout_s=PATIENCE_S, what="round 1")
        off.kill()
        run.result(timeout=PATIENCE_S)
    assert job.rounds[1].replied == SITES[:2]
    assert job.rounds[1].dropped == {SITES[2]: "deadline"}
    assert rough.session().endpoint.presence()[off.name] is False  # told by the broker, within the keep-alive
    infos = {info.id: info for info in rough.session().nodes(timeout_s=30)}
    assert {name: info.online for name, info in infos.items()} == dict.fromkeys(SITES[:2], True) | {
        off.name: False
    }
    status = rough.nodes[SITES[0]].status()
    seen = infos[SITES[0]]
    assert (
        (seen.ready, seen.busy, seen.free)
        == (status["ready"], status["busy"], status["free"])
        == (True, 0, 1)
    )
    assert 0 <= time.time() - status["last_task"] < PATIENCE_S
    assert (seen.last_task, seen.versions) == (status["last_task"], status["versions"])
    assert (status["datasets"], status["running"], status["connected"]) == (["points"], True, True)
    assert not off.status()["running"]
    asked = make_job(
        rough, data={"tags": ["points"]}, nodes=list(SITES[:2])
    ).check_training_plan_is_approved_by_nodes()
    assert asked == dict.fromkeys(SITES[:2], "not-needed")
    off.start()
    job = make_job(rough)
    job.reach()
    off.kill()
    asked = job.check_training_plan_is_approved_by_nodes()
    assert asked == {SITES[0]: "not-needed", SITES[1]: "not-needed", SITES[2]: "no reply"}


def test_hub_and_broker_die_in_the_middle_and_the_job_completes(rough: Federation, tmp_path: Path) -> None:
    args = {**TRAINING, "num_updates": 4, "pause_s": 0.1, "tally": str(tmp_path)}
    job = make_job(rough, Counting, training_args=args, rounds=5)
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: in_round(job, 2), timeout_s=PATIENCE_S, what="round 2")
        os.kill(rough.broker_pid(), signal.SIGKILL)  # the hub starts it again
        wait_until(lambda: in_round(job, 3), timeout_s=PATIENCE_S, what="round 3, after the broker's death")
        rough.hub.kill()
        rough.start_hub()
        wait_until(lambda: in_round(job, 4), timeout_s=PATIENCE_S, what="round 4, after the hub's death")
        assert rough.hub.stop() == 0
        rough.start_hub()
        run.result(timeout=PATIENCE_S)
    assert all(len(info.replied) == 3 for info in job.rounds.values())
    assert digest(job) == simulated(rough, tmp_path / "home", Counting, training_args=args, rounds=5)


@pytest.fixture
def proxy(rough: Federation) -> Iterator[FaultyProxy]:
    """Return a faulty server in front of the hub."""
    with FaultyProxy(rough.url) as made:
        yield made


@contextmanager
def unlucky(rough: Federation, proxy: FaultyProxy) -> Iterator[Session]:
    """Connect through the faulty server, without much patience for it."""
    with connect(hub=proxy.url, home=rough.folder / "unlucky", id="unlucky", timeout_s=30) as session:
        session.repository.close()
        patience = Patience(num_retries=3)
        session.repository = HttpRepository(proxy.url, token=session.membership.token, patience=patience)
        yield session


@pytest.mark.feature("FB-65")
def test_a_reply_that_can_not_be_fetched_costs_its_node_and_not_the_round(
    rough: Federation, proxy: FaultyProxy
) -> None:
    bad: set[str] = set()

    def fault(method: str, path: str) -> int:
        if method == "GET" and "/objects/" in path and not bad:
            bad.add(path)
        return 500 if method == "GET" and path in bad else 0

    with unlucky(rough, proxy) as session:
        job = make_job(rough, Large, session=session, rounds=1)
        proxy.fault = fault
        job.run(progress=False)
    assert len(job.rounds[1].replied) == 2
    ((_, reason),) = job.rounds[1].dropped.items()
    assert reason.startswith("repository_unreachable")
    assert len(bad) == 1


@pytest.mark.feature("FB-76")
def test_a_repository_that_is_down_at_aggregation_fails_the_job_which_can_be_resumed(
    rough: Federation, proxy: FaultyProxy, tmp_path: Path
) -> None:
    with unlucky(rough, proxy) as session:
        job = make_job(rough, Large, session=session)
        down = lambda method, path: 503 if in_round(job, 2) and method == "PUT" else 0  # noqa: E731
        proxy.fault = down
        with pytest.raises(JobFailed, match=r"Job\.resume") as caught:
            job.run(progress=False)
        assert caught.value.reason == job.reason == "repository_unreachable"
        assert job.state == "failed"
        proxy.fault = lambda method, path: 0
        rest = Job.resume(job.breakpoints[-1], session=session)
        rest.run(progress=False)
    assert rest.id == job.id
    assert digest(rest) == simulated(rough, tmp_path, Large)


@pytest.mark.feature("FB-59")
def test_a_reply_tells_how_long_each_part_took(rough: Federation) -> None:
    job = make_job(rough)
    replies = job.start_nodes_training_round(1)
    job.close("killed")
    for reply in replies:
        assert {"queued", "setup", "train", "validate", "total"} <= set(reply.timing)
        assert reply.timing["total"] >= reply.timing["train"]
        assert reply.params is not None
        assert json.dumps(reply.metrics)
