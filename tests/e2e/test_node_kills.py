"""A node that is killed with -9 takes up its queue: no finished work is computed twice, none is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from fedjob.common.config import set_config
from fedjob.common.types import Address, new_job_id
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership, enrol, fetch_hub
from fedjob.identity.party_list import Party, fetch_parties
from fedjob.messaging.transport.base import Transport
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.storage.database import Database
from fedjob.repository import open_repository
from fedjob.repository.base import Repository
from tests.e2e.federation import ROOT, database_of
from tests.integration.nodes import ADD_ONE, Researcher, plan_with, write_toy
from tests.processes import Processes, Running, runs, wait_until

pytestmark = pytest.mark.timeout(300)

STEPS = (
    "accepted",
    "started",
    "receipted",
    "fetched",
    "returned",
    "kept",
    "stored",
    "done",
    "replied",
    "released",
)


BY_FILES = ("kept", "stored")
"""Steps of a result that is kept in files; a small one has none: it is `done` with the commit that has it."""

KEEPS_STATE = ADD_ONE.replace("= batch", '= batch\n        self.ctx.state["seen"] = 1')
"""A plan whose results are kept in files, since something of them stays at the node."""


@dataclass
class Real:
    """A hub, a broker and a repository in processes of their own; what `Researcher` asks of a federation."""

    membership: Membership
    folder: Path
    repository: Repository
    broker_url: str
    parties: dict[str, Party] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.membership.federation

    def transport(self, address: Address) -> Transport:
        membership = self.membership
        return MqttTransport(self.broker_url, address, address.party, membership.broker_password)

    def refresh(self) -> dict[str, Party]:
        return fetch_parties(self.membership)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Processes, Path]]:
    folder = tmp_path_factory.mktemp("kills")
    with Processes(folder / "logs") as processes:
        yield processes, folder


@pytest.fixture(scope="module")
def hub_url(shared: tuple[Processes, Path]) -> str:
    processes, folder = shared
    hub = processes.start(
        "fedjob",
        "hub",
        "start",
        "--home",
        folder / "hub",
        "--port",
        "0",
        "--mqtt-port",
        "0",
        ready="hub ready",
    )
    return hub.wait_for(r"hub ready: (\S+)").group(1)


@pytest.fixture(scope="module")
def ann(shared: tuple[Processes, Path], hub_url: str) -> Iterator[Researcher]:
    folder = shared[1]
    identity = Identity.generate("ann")
    membership = enrol(hub_url, "ann", "researcher", identity.public_keys)
    repository = open_repository(hub_url, token=membership.token)
    real = Real(membership, folder, repository, fetch_hub(hub_url).broker_url)
    researcher = Researcher(real, "ann", identity)
    yield researcher
    researcher.endpoint.stop()
    repository.close()


def _printed(home: NodeHome, line: str) -> int:
    """Return how often the plans of a node have printed a line."""
    return sum(log.read_text().splitlines().count(line) for log in home.task_logs.glob("*.stdout"))


class KilledNode:
    """A home with the dataset `toy`, and the daemon in a process."""

    def __init__(self, processes: Processes, folder: Path, hub_url: str, name: str) -> None:
        self.name = name
        self.processes = processes
        self.folder = folder / name
        self.home = NodeHome(self.folder / "home")
        self.armed = self.folder / "armed"
        self.marker = self.folder / "crashed"
        self.process: Running | None = None
        write_toy(self.folder / "toy.npz")
        processes.run("fedjob", "node", "init", "--home", self.home.root, "--id", name, "--hub", hub_url)
        set_config(NodeConfig, self.home.root, "approval", "off")
        with database_of(Database(self.home.database)) as database:
            Datasets(database).add(describe_dataset("toy", self.folder / "toy.npz"))

    def running(self) -> Running:
        """Return the daemon's process, started if there is none."""
        if self.process is None or not self.process.alive:
            self.process = self.start()
        return self.process

    def start(self, *, fork: bool = True) -> Running:
        return self.processes.start(
            "python",
            "-m",
            "tests.e2e.node_main",
            self.home.root,
            self.armed,
            self.marker,
            name=self.name,
            cwd=ROOT,
            fork=fork,
        )

    def arm(self, step: str, job: str) -> None:
        """Let the daemon end itself at this step of this job's task, once."""
        self.marker.unlink(missing_ok=True)
        written = self.armed.with_suffix(".new")
        written.write_text(f"{step} {job}")
        written.rename(self.armed)

    def charges(self, job: str) -> list[str]:
        """Return the states of a job's charges in the privacy ledger, the newest first."""
        with database_of(Database(self.home.database)) as database:
            return [charge.state for charge in PrivacyAccounts(database).charges(job=job)]

    def trainings(self) -> int:
        return _printed(self.home, "the data are loaded")

    def lose_unsynced(self, fate: str) -> None:
        """Do to the spool what a power cut may do to files that nobody synced: they are `gone`, `empty` or `torn`."""
        for path in [*self.home.tasks.rglob("*.mpk"), *self.home.objects.iterdir()]:
            size = path.stat().st_size
            if fate == "gone":
                path.unlink()
            else:
                os.truncate(path, 0 if fate == "empty" else size // 2)
                os.truncate(path, 0 if fate == "empty" else size)  # what was not written reads as zeros


@pytest.fixture(scope="module")
def killed(shared: tuple[Processes, Path], hub_url: str) -> KilledNode:
    """One node for every step: started again after a kill, it goes on with the next job."""
    processes, folder = shared
    return KilledNode(processes, folder, hub_url, "kill")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_trains_once_and_answers(
    killed: KilledNode, ann: Researcher, step: str
) -> None:
    node = killed
    process = node.running()
    trainings = node.trainings()
    ann.job = new_job_id()
    plan = KEEPS_STATE if step in BY_FILES else ADD_ONE
    first = ann.attached(ann.task(plan, "AddOne"))  # nobody could give its parameters once more
    if step == "released":
        sent = ann.train(node.name, first)
        ann.take(lambda received: [m for m in received if getattr(m.body, "of", "") == sent], timeout_s=120)
    node.arm(step, ann.job)
    sent = ann.train(node.name, first, round_=2 if step == "released" else 1)
    ann.take(lambda received: not process.alive, timeout_s=120)
    assert process.wait(timeout_s=0) == -signal.SIGKILL
    assert node.marker.read_text() == f"{step} {ann.job}"
    process = node.running()
    ann.take(lambda received: [m for m in received if getattr(m.body, "of", "") == sent], timeout_s=120)
    result = next(m.body for m in ann.received if getattr(m.body, "of", "") == sent)
    assert result.ok, (result.reason, result.detail)
    assert [*result.attached] == [result.params.sha256]
    assert process.alive
    # a worker keeps its data between rounds: one load each for the workers before and after the kill at most
    before = {"accepted": 0, "started": 0, "receipted": 0, "fetched": 0, "released": 1}
    assert node.trainings() - trainings == before.get(step, 0) + 1
    assert len([m for m in ann.received if getattr(m.body, "of", "") == sent]) == 1


@pytest.mark.parametrize(
    ("step", "fate", "trained"),
    [("returned", "torn", 2), ("returned", "empty", 2), ("done", "gone", 1), ("replied", "torn", 1)],
)
def test_after_a_power_cut_the_database_alone_has_a_small_result(
    killed: KilledNode, ann: Researcher, step: str, fate: str, trained: int
) -> None:
    """Before its commit it is computed again, and nothing of it has left; after that nothing else is needed."""
    node = killed
    process = node.running()
    ann.job = new_job_id()
    first = ann.attached(ann.task(ADD_ONE, "AddOne"))
    undisturbed = ann.result(node.name, first, 120)
    ann.end(node.name)
    trainings, results = node.trainings(), {*node.home.results.iterdir()}
    ann.job = new_job_id()
    node.arm(step, ann.job)
    sent = ann.train(node.name, first)
    ann.take(lambda received: not process.alive, timeout_s=120)
    assert node.marker.read_text() == f"{step} {ann.job}"
    answered = lambda received: [m for m in received if getattr(m.body, "of", "") == sent]  # noqa: E731
    assert not answered(ann.received) or step == "replied"
    assert {*node.home.results.iterdir()} == results, "a small result lies in no folder of the spool"
    node.lose_unsynced(fate)
    node.running()
    (answer,) = ann.take(answered, timeout_s=120)
    assert answer.body.ok, (answer.body.reason, answer.body.detail)
    assert answer.body.params == undisturbed.params, "whatever was lost, it ends in the same bytes"
    assert [*answer.body.attached] == [answer.body.params.sha256]
    assert node.trainings() - trainings == trained


@pytest.mark.parametrize("step", ["charged", "fetched", "returned", "stored", "done"])
def test_killed_at_any_step_a_private_task_is_charged_once(
    killed: KilledNode, ann: Researcher, step: str
) -> None:
    """The ledger is never under what was told: at the moment of the kill, and after the task has ended."""
    node = killed
    process = node.running()
    ann.job = new_job_id()
    dp = {"kind": "record", "epsilon": 2.0, "delta": 1e-5, "max_grad_norm": 1.0}
    task = ann.task(ADD_ONE, "AddOne", protect={"dp": dp}, rounds=1)
    node.arm(step, ann.job)
    sent = ann.train(node.name, task)
    ann.take(lambda received: not process.alive, timeout_s=120)
    assert node.marker.read_text() == f"{step} {ann.job}"
    (killed_with,) = node.charges(ann.job)
    assert killed_with == ("spent" if step == "done" else "reserved")
    node.running()
    ann.take(lambda received: [m for m in received if getattr(m.body, "of", "") == sent], timeout_s=120)
    result = next(m.body for m in ann.received if getattr(m.body, "of", "") == sent)
    assert result.ok, (result.reason, result.detail)
    assert node.charges(ann.job) == ["spent"]
    assert 1.9 < result.privacy["epsilon"] <= 2.0


def test_workers_and_what_they_started_die_with_their_daemon(
    shared: tuple[Processes, Path], hub_url: str, ann: Researcher
) -> None:
    processes, folder = shared
    node = KilledNode(processes, folder, hub_url, "orphans")
    step = "os.fork()\nprint('one of two\\n', end='', flush=True)\nos.setsid() if os.getpid() > 1 else None\nwhile True: time.sleep(1)"
    process = node.start(fork=False)
    ann.job = new_job_id()
    ann.train(node.name, ann.task(plan_with(step), "Odd"))
    ann.take(lambda received: _printed(node.home, "one of two") == 2, timeout_s=120)
    everyone = [c.pid for c in psutil.Process(process.pid).children(recursive=True)]
    assert len(everyone) >= 3  # the fork server, the worker, and what the worker started
    os.kill(process.pid, signal.SIGKILL)
    wait_until(
        lambda: not [pid for pid in everyone if runs(pid)], timeout_s=30, what="every process to be gone"
    )
    ann.end(node.name)
