from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedjob.common.types import Ref, new_job_id
from fedjob.messaging.messages import Found, Ping, Pong, Result, Search
from fedjob.node.config.config import NodeConfig
from fedjob.node.storage.costs import CostLedger
from fedjob.repository.memory import MemoryRepository
from tests.integration.nodes import ADD_ONE, Federation, Node, plan_with
from tests.processes import runs, wait_until


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node().start()


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    federation = Federation(tmp_path_factory.mktemp("shared"))
    try:
        yield federation.node(config=NodeConfig(approval="off", worker_memory_mb=1024, log_kb=64)).start()
    finally:
        federation.close()


@pytest.fixture
def busy(shared_node: Node) -> Node:
    """A node that works for tests of this file one after the other: a new job, no trainings counted."""
    shared_node.federation.ann.job = new_job_id()
    for log in shared_node.home.task_logs.iterdir():
        log.unlink()
    return shared_node


def test_it_answers_ping_and_search(federation: Federation, node: Node) -> None:
    ann = federation.ann
    assert ann.answer_to(ann.send("node1", Ping()), Pong).num_datasets == 1
    found = ann.answer_to(ann.send("node1", Search(tags=["toy"])), Found)
    assert [(d["name"], d["num_rows"], d["has_mock"]) for d in found.datasets] == [("toy", 20, False)]
    assert "path" not in found.datasets[0]
    assert ann.answer_to(ann.send("node1", Search(tags=["toy", "other"])), Found).datasets == []


def test_it_trains_and_a_warm_worker_gives_the_bytes_of_a_fresh_one(
    federation: Federation, node: Node, tmp_path: Path
) -> None:
    ann = federation.ann
    task = ann.task(ADD_ONE, "AddOne")
    result = ann.result("node1", task)
    assert result.ok, (result.reason, result.detail)
    assert result.params is not None
    assert (result.num_examples, result.threads) == (20, 2)
    assert {"queued", "setup", "train", "total"} <= set(result.timing)
    trained = ann.fetch(result, tmp_path)
    assert not torch.equal(trained["weight"], torch.full((1, 2), 0.5))

    second = ann.result("node1", task, round_=2)
    node.stop()
    ann.job = "job_" + "0" * 8 + "-0000-4000-8000-" + "0" * 12
    node.start()
    fresh = ann.result("node1", task, round_=2)
    assert second.params == fresh.params
    assert node.trainings() == 2


def test_a_task_with_a_value_or_a_file_that_its_step_does_not_take_is_refused(busy: Node) -> None:
    ann = busy.federation.ann
    task = ann.task(ADD_ONE, "AddOne")
    extra = ann.params(busy.federation.folder, value=0.25)
    for more in (
        {"values": {"note": "patients 3 and 7"}},
        {"params": {**task.params, "more": extra}},
        {"blobs": {"params": extra}},
        {"values": {"turn": "x"}},
    ):
        refused = ann.result("node1", replace(task, **more))
        assert (refused.ok, refused.reason) == (False, "spec"), more
        assert "takes params; found" in refused.detail or "turn counts" in refused.detail
    assert busy.trainings() == 0
    assert ann.result("node1", replace(task, values={"turn": 2})).ok


def test_the_same_work_is_done_once_and_answered_again(federation: Federation, node: Node) -> None:
    ann = federation.ann
    task = ann.task(ADD_ONE, "AddOne")
    first = ann.result("node1", task)
    again = ann.result("node1", task)
    node.stop()
    node.start()
    third = ann.result("node1", task, epoch=2)
    same = [replace(one, of="", audit=None) for one in (first, again, third)]
    assert same[0] == same[1] == same[2]
    assert node.trainings() == 1


WIDE = ADD_ONE.replace(
    "torch.nn.Linear(2, 1)", "torch.nn.Sequential(torch.nn.Linear(2, 9000), torch.nn.Linear(9000, 1))"
)


def test_small_parameters_come_and_go_with_the_messages_and_the_repository_has_none_of_them(
    busy: Node, tmp_path: Path
) -> None:
    ann, repository = busy.federation.ann, busy.federation.repository
    task = ann.attached(ann.task(ADD_ONE, "AddOne"), value=0.125)
    by_message = ann.result("node1", task)
    assert by_message.ok, (by_message.reason, by_message.detail)
    assert by_message.params is not None
    assert not repository.exists(by_message.params)
    assert not any(repository.exists(ref) for ref in task.params.values())
    stored = ann.params(busy.federation.folder, value=0.125)
    assert ann.result("node1", replace(task, params={"params": stored}, attached={})).of != by_message.of
    assert busy.trainings() == 1, "the way of the bytes does not make it other work"
    trained = ann.fetch(by_message, tmp_path)
    assert not torch.equal(trained["weight"], torch.full((1, 2), 0.125))


def test_attached_parameters_are_kept_for_the_task_and_go_after_it(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann

    def held() -> int:
        with node.database() as database:
            return len(database.rows("SELECT sha256 FROM attached"))

    assert ann.result("node1", ann.attached(ann.task(ADD_ONE, "AddOne"))).ok
    assert held() == 2, "what came with the task, and what leaves with its answer"
    node.stop()
    node.start()
    again = ann.result("node1", ann.attached(ann.task(ADD_ONE, "AddOne")), epoch=2)
    assert len(again.attached) == 1, "asked again, it is read from the database"
    assert node.trainings() == 1
    assert ann.result("node1", ann.attached(ann.task(ADD_ONE, "AddOne"), value=0.25), round_=2, epoch=2).ok
    ann.end("node1", epoch=2)
    wait_until(lambda: held() == 0, timeout_s=30, what="the attached parameters to go")


def test_a_result_lost_by_the_repository_is_put_there_again(busy: Node) -> None:
    node, federation = busy, busy.federation
    ann = federation.ann
    task = ann.task(WIDE, "AddOne", params={"params": ann.wide_params(federation.folder, 9000)})
    first = ann.result("node1", task)
    assert first.params is not None
    assert not first.attached
    federation.repository.delete(first.params, job=ann.job)
    again = ann.result("node1", task)
    assert again.params == first.params
    assert federation.repository.exists(first.params)
    assert node.trainings() == 1


@pytest.mark.feature("FB-57")
@pytest.mark.parametrize("momentum", [0.9, 0.0], ids=["an optimizer with memory", "an optimizer without"])
def test_the_state_of_the_round_before_changes_a_round_of_an_optimizer_that_has_one(
    busy: Node, momentum: float
) -> None:
    ann = busy.federation.ann
    plan = ADD_ONE.replace("lr=0.1", f"lr=0.1, momentum={momentum}")
    first = ann.result("node1", ann.task(plan, "AddOne"))
    with_state = ann.result("node1", ann.task(plan, "AddOne", state=first.state), round_=2)
    without = ann.result("node1", ann.task(plan, "AddOne"), round_=2)
    assert (with_state.ok, without.ok) == (True, True)
    assert (with_state.params != without.params) == bool(momentum)


def test_node_states_are_proposed_named_and_dropped(busy: Node) -> None:
    node, ann = busy, busy.federation.ann
    momentum = ADD_ONE.replace("lr=0.1", "lr=0.1, momentum=0.9")
    first = ann.result("node1", ann.task(momentum, "AddOne"))
    assert first.state
    second = ann.result("node1", ann.task(momentum, "AddOne", state=first.state), round_=2)
    folder = node.home.states_of(ann.job)
    assert len(list(folder.iterdir())) == 2

    unknown = ann.result("node1", ann.task(momentum, "AddOne", state="0" * 32), round_=4)
    assert (unknown.ok, unknown.reason) == (False, "state_missing")
    kept = [first.state]
    last = ann.result("node1", ann.task(momentum, "AddOne", state=second.state, keep_states=kept), round_=5)
    wait_until(lambda: len(list(folder.iterdir())) == 3, timeout_s=30, what="round 3's state to go")
    ann.end("node1", keep_states=None)  # of more than a message names
    of_job = "SELECT key FROM tasks WHERE job = ?"
    with node.database() as database:
        wait_until(lambda: not database.rows(of_job, (ann.job,)), timeout_s=30, what="the job's tasks to go")
    assert len(list(folder.iterdir())) == 3
    ann.end("node1", keep_states=[last.state], epoch=2)
    wait_until(lambda: len(list(folder.iterdir())) == 1, timeout_s=30, what="all but the last state to go")
    ann.end("node1", epoch=3)
    wait_until(lambda: not folder.exists(), timeout_s=30, what="every state to go")


def test_the_spool_is_released_by_the_next_round_and_the_end(federation: Federation, node: Node) -> None:
    ann = federation.ann
    keeps_state = ADD_ONE.replace("= batch", '= batch\n        self.ctx.state["seen"] = 1')
    task = ann.task(keeps_state, "AddOne")
    ann.result("node1", task)
    assert len(list(node.home.results.iterdir())) == 1
    ann.result("node1", task, round_=2)
    wait_until(
        lambda: len(list(node.home.results.iterdir())) == 1, timeout_s=30, what="round 1's spool to go"
    )
    ann.end("node1")
    wait_until(
        lambda: not [*node.home.results.iterdir(), *node.home.objects.iterdir(), *node.home.tasks.iterdir()],
        timeout_s=30,
        what="an empty spool",
    )


def test_a_small_result_is_in_the_database_alone_until_the_next_round_or_the_end(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann

    def held() -> set[str]:
        with closing(sqlite3.connect(node.home.database)) as database:
            return {row[0] for row in database.execute("SELECT sha256 FROM attached")}

    first = ann.attached(ann.task(ADD_ONE, "AddOne"))
    came = {*first.attached}
    done = ann.result("node1", first)
    assert done.params is not None
    assert held() == {*came, done.params.sha256}
    assert not [*node.home.results.iterdir(), *node.home.objects.iterdir()]
    wait_until(lambda: not any(node.home.tasks.iterdir()), timeout_s=30, what="the worker's folder to go")
    again = ann.result("node1", ann.attached(first, value=0.25), round_=2)
    assert again.params is not None
    wait_until(lambda: not held() & {*came, done.params.sha256}, timeout_s=30, what="round 1's to go")
    assert again.params.sha256 in held()
    ann.end("node1")
    wait_until(lambda: not held(), timeout_s=30, what="all to go")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "other"}, "no_dataset"),
        ({"use": "mock"}, "no_mock"),
        ({"protocol": "nothing"}, "protocol"),
        ({"plan": None}, "plan"),
        ({"state": "../../etc/passwd"}, "state_missing"),
    ],
)
def test_what_can_not_run_is_refused_with_its_reason(
    federation: Federation, node: Node, change: dict[str, object], reason: str
) -> None:
    ann = federation.ann
    result = ann.result("node1", ann.task(ADD_ONE, "AddOne", **change))
    assert (result.ok, result.reason) == (False, reason)
    assert node.trainings() == 0


@pytest.mark.feature("NV-02")
def test_a_task_of_a_job_whose_id_is_a_path_is_not_taken(busy: Node) -> None:
    node, ann = busy, busy.federation.ann
    good, task = ann.job, ann.task(ADD_ONE, "AddOne")
    before = {path for path in node.home.root.rglob("*") if path.is_dir()}
    trainings = node.trainings()
    ann.job = "job_../../../etc"
    ann.train("node1", task)
    ann.end("node1")
    ann.job = good
    assert ann.answer_to(ann.send("node1", Ping()), Pong).num_datasets == 1
    assert {path for path in node.home.root.rglob("*") if path.is_dir()} == before
    assert node.trainings() == trainings


def test_an_older_epoch_and_a_foreign_researcher_are_refused(busy: Node) -> None:
    from tests.integration.nodes import Researcher

    node, federation = busy, busy.federation
    ann = federation.ann
    task = ann.task(ADD_ONE, "AddOne")
    assert ann.result("node1", task, epoch=3).ok
    assert ann.result("node1", task, round_=2, epoch=2).reason == "stale_epoch"
    bob = Researcher(federation, "bob")
    bob.job = ann.job
    assert bob.result("node1", task, round_=2, epoch=9).reason == "not_permitted"
    bob.endpoint.stop()
    assert node.trainings() == 1


PLANS = {
    "raises": ("raise ValueError('secret 42')", "exception"),
    "exits": ("sys.exit(3)", "exception"),
    "ends its process": ("os._exit(3)", "worker_died"),
    "never ends": ("while True: pass", "timeout"),
    "returns NaN": ("loss = loss * float('nan')", None),
    "has the wrong shape": ("loss = model(torch.zeros(3, 7)).sum()", "exception"),
    "makes a tensor that does not fit": ("held = torch.empty(1 << 30)", "out_of_memory"),
    "allocates much": ("held = [bytearray(1 << 26) for _ in range(1 << 12)]", "out_of_memory"),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_misbehaves_costs_its_task_and_not_the_node(shared_node: Node, what: str) -> None:
    node, ann = shared_node, shared_node.federation.ann
    ann.job = new_job_id()
    step, reason = PLANS[what]
    limit_s = 0.5 if what == "never ends" else None
    result = ann.result("node1", ann.task(plan_with(step), "Odd", limit_s=limit_s))
    assert not result.ok
    if reason is not None:
        assert result.reason == reason
    assert "secret" not in result.detail
    if what == "raises":
        assert result.detail == "ValueError at plan line 23"
    if what == "exits":
        assert result.detail == "SystemExit at plan line 23"
    assert str(node.home.root) not in result.detail
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2).ok


def test_what_a_plan_prints_goes_to_a_log_of_bounded_size(shared_node: Node) -> None:
    node, ann = shared_node, shared_node.federation.ann
    ann.job = new_job_id()
    step = "for _ in range(2000): print('x' * 1000)"
    result = ann.result("node1", ann.task(plan_with(step), "Odd"))
    assert result.ok
    size = node.home.log_of(result.key, "stdout").stat().st_size
    assert 60_000 < size < 70_000


def test_what_a_plan_forks_ends_with_its_task(busy: Node) -> None:
    ann = busy.federation.ann
    step = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid()\n"
        "    print('forked', flush=True)\n"
        "    time.sleep(600)\n"
        "while True: time.sleep(1)"
    )
    sent = ann.train("node1", ann.task(plan_with(step), "Odd", limit_s=20.0))
    wait_until(lambda: "forked" in busy.printed(), timeout_s=60, what="the plan to have forked")
    pids = busy.worker_processes(ann.job)
    assert len(pids) >= 2
    assert ann.answer_to(sent, Result).reason == "timeout"
    wait_until(lambda: not any(map(runs, pids)), timeout_s=30, what="the forked child to be gone")


def test_with_errors_full_the_researcher_is_told_the_words(federation: Federation) -> None:
    federation.node(config=NodeConfig(approval="off", errors="full")).start()
    ann = federation.ann
    result = ann.result("node1", ann.task(plan_with("raise ValueError('42 rows')"), "Odd"))
    assert "42 rows" in result.detail


def test_an_end_stops_what_runs(busy: Node) -> None:
    ann = busy.federation.ann
    step = "print('begun', flush=True)\nwhile True: time.sleep(1)"
    ann.train("node1", ann.task(plan_with(step), "Odd"))
    wait_until(lambda: "begun" in busy.printed(), timeout_s=60, what="the training to begin")
    pids = busy.worker_processes(ann.job)
    assert pids
    ann.end("node1")
    wait_until(lambda: not any(map(runs, pids)), timeout_s=30, what="the worker to be gone")
    assert not any(isinstance(m.body, Result) and m.job == ann.job for m in ann.received)


class HeldRepository(MemoryRepository):
    """A repository that gives one object only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.asked, self.may_go = "", threading.Event(), threading.Event()

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        if sha256 == self.held:
            self.asked.set()
            assert self.may_go.wait(60)
        yield from super().read_object(sha256, offset=offset)


def moved(node: Node) -> int:
    """Return the bytes that count for the researcher's job at a node."""
    with node.database() as database:
        return CostLedger(database).moved_by(node.federation.ann.job, "")


def test_what_a_task_fetched_counts_though_another_of_its_objects_is_missing(
    federation: Federation, node: Node
) -> None:
    ann, missing = federation.ann, Ref("ab" * 32, 1_000_000)
    task = ann.task(ADD_ONE, "AddOne", protocol="scaffold")
    there = task.params["params"]
    lacking = replace(task, params={"params": there, "control": missing, "own_control": missing})
    assert ann.result("node1", lacking).reason == "object_missing"
    assert moved(node) == there.size_bytes


def test_what_a_task_fetches_counts_where_its_job_is_ended_meanwhile(tmp_path: Path) -> None:
    repository = HeldRepository()
    federation = Federation(tmp_path, repository)
    try:
        node, ann = federation.node().start(), federation.ann
        task = ann.task(ADD_ONE, "AddOne")
        there = task.params["params"]
        repository.held = there.sha256
        ann.train("node1", task)
        assert repository.asked.wait(60)
        ann.end("node1")
        wait_until(lambda: moved(node) >= there.size_bytes, timeout_s=30, what="the bytes to count")
    finally:
        repository.may_go.set()
        federation.close()


def test_a_working_node_renews_its_lease(federation: Federation, node: Node) -> None:
    ann = federation.ann
    ann.train("node1", ann.task(plan_with("time.sleep(30)"), "Odd"))
    ann.take(lambda received: len(ann.events("lease")) >= 2)


def test_a_disk_that_is_full_when_a_task_starts_costs_the_task_and_not_the_node(node: Node) -> None:
    ann, full = node.federation.ann, iter([OSError(errno.ENOSPC, "No space left on device", "/srv/spool")])

    def no_room(step: str) -> None:
        if step == "started":
            for error in full:
                raise error

    node.stop()
    node.point = no_room
    node.start()
    task = ann.attached(ann.task(ADD_ONE, "AddOne"))
    refused = ann.result("node1", task)
    assert (refused.ok, refused.reason) == (False, "no_space")
    assert "ask its owner to free some" in refused.detail
    assert ann.result("node1", task, round_=2).ok, "there is room again"
    with node.database() as database:
        assert [row["tasks"] for row in database.rows("SELECT tasks FROM costs")] == [1]
