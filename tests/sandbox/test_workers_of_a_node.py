"""Workers of real nodes: what each is for, when it ends, and what the node says of its sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Answer, Ping, Pong, Result
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.sandbox.enclosure import LANDLOCK
from fedjob.node.sandbox.support import find_support
from tests.integration.nodes import ADD_ONE, Federation, Node, plan_with, write_toy
from tests.processes import wait_until

OPEN = NodeConfig(approval="off", threads=1)
CARRIES = """\
import builtins
from fedjob.protocols.analytics.statistics import Statistics
print('carried', hasattr(builtins, 'CARRIED'), Statistics.contribute.__name__, flush=True)
builtins.CARRIED = True
def told(self, *given): raise RuntimeError('patched')
Statistics.contribute = told"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that works for the tests of this file, with a mock of its dataset."""
    federation = Federation(tmp_path_factory.mktemp("federation"))
    made = federation.node(config=OPEN)
    write_toy(made.folder / "mock.npz")
    with made.database() as database:
        Datasets(database).add(
            describe_dataset("both", made.folder / "toy.npz", mock=made.folder / "mock.npz")
        )
    made.start()
    yield made
    federation.close()


def test_what_a_plan_patches_does_not_reach_another_use_plan_or_job(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    plan, other = plan_with(CARRIES), plan_with(CARRIES + "\npass")
    rounds = [(plan, "mock"), (plan, "private"), (other, "private"), (plan, "mock")]
    for number, (text, use) in enumerate(rounds, 1):
        task = ann.task(
            text, "Odd", dataset="both", use=use, training_args={"num_updates": 1, "batch_size": 5}
        )
        result = ann.result("node1", task, round_=number)
        assert result.ok, (result.reason, result.detail)
    said = [line.split()[1:] for line in node.printed() if line.startswith("carried")]
    assert sorted(said) == [["False", "contribute"]] * 3 + [["True", "told"]], (
        "only the same again is the same worker"
    )
    ann.end("node1")
    wait_until(lambda: not node.worker_processes(ann.job), timeout_s=30, what="the job's workers to end")


def test_a_plan_sees_no_key_and_writes_nothing_into_the_nodes_home(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    home = str(node.home.root)
    step = f"""\
import socket
from pathlib import Path
home = Path({home!r})
print('home', home.exists(), Path('/proc/1/environ').exists() and os.getpid(), flush=True)
for action in (lambda: home.joinpath('config.toml').write_text('approval = "off"'),
               lambda: socket.create_connection(('127.0.0.1', 1)), lambda: os.setuid(0)):
    try:
        action()
        print('got out', flush=True)
    except OSError:
        pass"""
    assert ann.result("node1", ann.task(plan_with(step), "Odd")).ok
    assert "home False 1" in node.printed()
    assert "got out" not in node.printed()
    assert not (node.home.root / "config.toml").exists()


def test_output_that_is_no_file_ends_the_task_with_a_reason_and_the_next_one_runs(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    step = """\
import threading
def swap():
    import glob
    while True:
        for path in glob.glob('/worker/output/*/params.safetensors'):
            try:
                os.unlink(path)
                os.symlink('/dev/zero', path)
            except OSError:
                pass
threading.Thread(target=swap, daemon=True).start()"""
    # The thread races with the report: on a busy machine it may come too late for some of the tasks.
    results = (ann.result("node1", ann.task(plan_with(step), "Odd"), round_=n) for n in range(1, 31))
    refused = next(result for result in results if not result.ok)
    assert refused.reason
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=31).ok


def test_every_answer_says_what_sandbox_there_is(node: Node) -> None:
    ann = node.federation.ann
    ann.job = new_job_id()
    kind = find_support().kind
    assert ann.answer_to(ann.send("node1", Ping()), Pong).sandbox == kind
    assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).sandbox == kind
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).sandbox == kind
    node.config = replace(OPEN, sandbox="none")
    wait_until(
        lambda: ann.answer_to(ann.send("node1", Ping()), Pong).sandbox == "none",
        timeout_s=30,
        what="the setting",
    )
    wait_until(lambda: not node.worker_processes(), timeout_s=30, what="workers of the old setting to end")
    assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).sandbox == "none"
    done = ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2)
    assert (done.ok, done.sandbox) == (True, "none")
    refused = ann.result("node1", ann.task(ADD_ONE, "AddOne", dataset="nothing"), round_=3)
    assert (refused.ok, refused.sandbox) == (False, "none")
    node.config = OPEN
    wait_until(
        lambda: ann.answer_to(ann.send("node1", Ping()), Pong).sandbox == kind,
        timeout_s=30,
        what="the setting",
    )


def test_a_revoked_grant_ends_its_idle_worker_at_once(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        node = federation.node(config=NodeConfig(threads=1)).start()
        ann = federation.ann
        offer = ann.offer("node1", ADD_ONE, "AddOne")
        assert ann.answer_to(offer, Answer).status == "pending"
        node.decide()
        ann.take(lambda got: any(isinstance(m.body, Answer) and m.body.status == "granted" for m in got))
        assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok
        assert node.worker_processes()
        with node.database() as database:
            grants = Grants(database)
            grants.revoke(grants.all("granted")[0].id, note="no more", by="owner")
        wait_until(lambda: not node.worker_processes(), timeout_s=10, what="the idle worker to end")
    finally:
        federation.close()


def test_without_namespaces_a_node_works_with_landlock_and_without_both_it_refuses(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        ann = federation.ann
        bare = federation.node("bare", OPEN)
        bare.sandboxes = ()
        bare.start()
        result = ann.result("bare", ann.task(ADD_ONE, "AddOne"))
        assert (result.ok, result.reason, result.sandbox) == (False, "sandbox", "refused")
        assert "set sandbox none" in result.detail
        assert ann.answer_to(ann.offer("bare", ADD_ONE, "AddOne"), Answer).sandbox == "refused"
        bare.config = replace(OPEN, sandbox="none")
        wait_until(
            lambda: ann.answer_to(ann.send("bare", Ping()), Pong).sandbox == "none", timeout_s=30, what="none"
        )
        assert ann.result("bare", ann.task(ADD_ONE, "AddOne"), round_=2).ok
        if find_support((LANDLOCK,)).kind == LANDLOCK:
            locked = federation.node("locked", OPEN)
            locked.sandboxes = (LANDLOCK,)
            locked.start()
            step = f"import os.path\ntry:\n    open({str(locked.home.keys)!r} + '/ed25519').read()\nexcept OSError as error: print(error.strerror)"
            done: Result = ann.result("locked", ann.task(plan_with(step), "Odd"))
            assert (done.ok, done.sandbox) == (True, LANDLOCK), (done.reason, done.detail)
            assert set(locked.printed()) == {"Permission denied"}
    finally:
        federation.close()
