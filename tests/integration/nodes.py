"""A node's daemon in this process, and somebody who plays the researcher with real messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy
import psutil
import torch

from fedjob.common.config import FoundSettings
from fedjob.common.types import Address, Ref, new_job_id
from fedjob.identity.keys import Identity
from fedjob.identity.party_list import Party
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.messages import Answer, Body, End, Event, Message, Offer, Result, Task
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.base import Transport
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.daemon import Daemon
from fedjob.node.daemon.settings import InForce, settle
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.sandbox.support import TRIED
from fedjob.node.storage.database import Database
from fedjob.parameters.files import FileParams, save_params
from fedjob.repository.base import Repository
from fedjob.repository.memory import MemoryRepository
from fedjob.repository.parts import ref_of
from fedjob.training_plans.source.plan_source import plan_hash

B = TypeVar("B", bound=Body)

ADD_ONE = """\
import torch
from fedjob import TorchPlan


class AddOne(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):
        print("the data are loaded")
        x, y = dataset.arrays()
        return torch.tensor(x), torch.tensor(y)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)
"""


def plan_with(step: str, *, top: str = "") -> str:
    """Return a plan whose training step has this body."""
    body = "\n".join(f"        {line}" for line in step.splitlines())
    return f"""\
import os
import sys
import time

import torch
from fedjob import TorchPlan
{top}

class Odd(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):
        x, y = dataset.arrays()
        return torch.tensor(x), torch.tensor(y)

    def training_step(self, model, batch):
        inputs, targets = batch
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
{body}
        return loss
"""


def write_toy(path: Path) -> None:
    """Write the data of the dataset `toy`, 20 rows, unless they are there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x = numpy.random.default_rng(7).normal(size=(20, 2)).astype("float32")
        numpy.savez(path, x=x, y=x.sum(axis=1, keepdims=True))


class Node:
    """A home with one dataset `toy`, and the daemon that runs in it."""

    def __init__(self, federation: Federation, name: str, folder: Path, config: NodeConfig) -> None:
        self.federation = federation
        self.name = name
        self.folder = folder
        self.home = NodeHome(folder / "home")
        self.config = config
        self.identity = Identity.load_or_create(self.home.keys, name)
        federation.parties[name] = Party(name, "node", self.identity.public_key_hex)
        self.home.create()
        data = folder / "toy.npz"
        write_toy(data)
        with self.database() as database:
            datasets = Datasets(database)
            if datasets.find("toy") is None:
                datasets.add(describe_dataset("toy", data, tags=["toy", "small"]))
        self.sandboxes = TRIED
        self.roster: Roster | None = None  # None: the federation's parties, as they are
        self.point: Callable[[str], None] | None = None  # see `Daemon`
        self.daemon: Daemon | None = None
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the node's database as its command line does."""
        database = Database(self.home.database)
        try:
            yield database
        finally:
            database.close()

    def decide(self, *, approve: bool = True, note: str = "", limits: GrantLimits | None = None) -> None:
        """Decide over every pending grant."""
        with self.database() as database:
            grants = Grants(database)
            for grant in grants.all("pending"):
                if approve:
                    grants.approve(grant.id, note=note, by="owner", limits=limits)
                else:
                    grants.reject(grant.id, note=note, by="owner")

    def _settings(self) -> InForce:
        return settle(FoundSettings(asdict(self.config), ()), None)

    def start(self) -> Node:
        self.daemon = Daemon(
            home=self.home,
            settings=self._settings(),
            identity=self.identity,
            federation=self.federation.name,
            roster=self.roster or Roster(self.federation.parties, lambda: self.federation.parties),
            transport=MemoryTransport(self.federation.broker, Address(self.name)),
            repository=self.federation.repository,
            reload=self._settings,
            sandboxes=self.sandboxes,
            crash_at=self.point,
        )
        self._thread = threading.Thread(target=self._run, name=f"node {self.name}")
        self._thread.start()
        assert self.daemon.ready.wait(30)
        return self

    def _run(self) -> None:
        assert self.daemon is not None
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error
            raise

    def stop(self) -> None:
        if self.daemon is not None and self._thread is not None:
            self.daemon.stop()
            self._thread.join(60)
            assert not self._thread.is_alive()
            self.daemon = None

    def trainings(self) -> int:
        """How often the plan `AddOne` loaded its data here."""
        return self.printed().count("the data are loaded")

    def printed(self) -> list[str]:
        """The lines that plans have printed here, as far as they were taken down."""
        logs = sorted(self.home.task_logs.glob("*.stdout"))
        return [line for log in logs for line in log.read_text().splitlines()]

    def worker_processes(self, job: str = "") -> set[int]:
        """The processes of a job's workers, or of all, and what these have started, by the numbers that they have here."""
        assert self.daemon is not None
        found: set[int] = set()
        for worker in self.daemon._context.workers.facts()["warm"]:
            if job not in ("", worker["job"]):
                continue
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(worker["pid"])
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        return found


TRAINING_ARGS = {"num_updates": 2, "batch_size": 5}
"""What offers and tasks have in common where a test gives nothing else."""


class Federation:
    """A broker, a repository and a researcher named ann."""

    name = "test"

    def __init__(self, folder: Path, repository: Repository | None = None) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.repository = repository or MemoryRepository()
        self.parties: dict[str, Party] = {}
        self.nodes: list[Node] = []
        self.ann = Researcher(self, "ann")

    def transport(self, address: Address) -> Transport:
        return MemoryTransport(self.broker, address)

    def refresh(self) -> dict[str, Party]:
        return self.parties

    def node(self, name: str = "node1", config: NodeConfig | None = None) -> Node:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        node = Node(self, name, folder, config or NodeConfig(approval="off"))
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        self.ann.endpoint.stop()


class Researcher:
    """Sends real messages and keeps what comes back.

    Args:
        identity: known to the federation already; by default a fresh one that is made known.
    """

    def __init__(self, federation: Any, name: str, identity: Identity | None = None) -> None:
        self.federation = federation
        self.identity = identity or Identity.generate(name)
        federation.parties[name] = Party(name, "researcher", self.identity.public_key_hex)
        self.endpoint = Endpoint(
            self.identity,
            federation.name,
            Roster(federation.parties, federation.refresh),
            federation.transport(Address(name, "s1")),
            MemoryStore(),
            "researcher",
        )
        self.endpoint.start(5)
        self.received: list[Message] = []
        self.job = new_job_id()
        self.state: str | None = None

    def readers(self) -> list[str]:
        return [name for name, party in self.federation.refresh().items() if party.role == "node"]

    def plan(self, text: str) -> Ref:
        """Put a plan's text into the repository."""
        ref = self.federation.repository.put(text.encode(), job=self.job, readers=self.readers())
        assert ref.sha256 == plan_hash(text)
        return ref

    def params(self, folder: Path, *, value: float = 0.5, num_features: int = 2) -> Ref:
        """Put first parameters into the repository."""
        path = self.first_params(folder, value=value, num_features=num_features)
        return self.federation.repository.put(path, job=self.job, readers=self.readers())

    def first_params(self, folder: Path, *, value: float = 0.5, num_features: int = 2) -> Path:
        """Return a file of first parameters."""
        path = folder / f"first-{value}-{num_features}.safetensors"
        tensors = {"weight": torch.full((1, num_features), value), "bias": torch.zeros(1)}
        if not path.exists():
            save_params(tensors, path)
        return path

    def wide_params(self, folder: Path, width: int) -> Ref:
        """Put first parameters of two layers into the repository."""
        path = folder / f"wide-{width}.safetensors"
        shapes = {"0.weight": (width, 2), "0.bias": (width,), "1.weight": (1, width), "1.bias": (1,)}
        if not path.exists():
            save_params({name: torch.full(shape, 1e-3) for name, shape in shapes.items()}, path)
        return self.federation.repository.put(path, job=self.job, readers=self.readers())

    def attached(self, task: Task, *, value: float = 0.5) -> Task:
        """Return a task whose parameters come along with it and are in no repository."""
        path = self.first_params(self.federation.folder, value=value)
        ref, content = ref_of(path), path.read_bytes()
        return replace(task, params={"params": ref}, attached={ref.sha256: content})

    def send(self, node: str, body: Body, **header: Any) -> str:
        return self.endpoint.send(Address(node), body, job=self.job, **header)

    def take(self, until: Callable[[list[Message]], Any], timeout_s: float = 60.0) -> Any:
        """Receive until `until(received)` gives something true, and return that."""
        deadline = time.monotonic() + timeout_s
        while not (found := until(self.received)):
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came: {[type(m.body).__name__ for m in self.received]}"
            messages = self.endpoint.receive(min(left, 0.2))
            self.received += messages
            self.endpoint.settle(messages)
        return found

    def answer_to(self, id_: str, kind: type[B], timeout_s: float = 60.0) -> B:
        """Wait for the newest reply to a message."""

        def find(received: list[Message]) -> B | None:
            found = [m.body for m in received if isinstance(m.body, kind) and m.body.of == id_]  # type: ignore[union-attr]
            return found[-1] if found else None

        found: B = self.take(find, timeout_s)
        return found

    def offer(self, node: str, text: str, entry: str, **more: Any) -> str:
        fields = {"dataset": "toy", "protocol": "fedavg", "plan": self.plan(text), "entry": entry}
        return self.send(node, Offer(**{**fields, "training_args": TRAINING_ARGS, "rounds": 9, **more}))

    def task(self, text: str, entry: str, **more: Any) -> Task:
        task = Task(
            dataset="toy",
            protocol="fedavg",
            plan=self.plan(text),
            entry=entry,
            params={"params": self.params(self.federation.folder)},
            training_args=TRAINING_ARGS,
            seed=11,
        )
        return replace(task, **more)

    def train(
        self, node: str, task: Task, *, round_: int = 1, epoch: int = 1, attempt: int = 1, step: str = "train"
    ) -> str:
        return self.send(node, task, round=round_, step=step, epoch=epoch, attempt=attempt)

    def result(self, node: str, task: Task, timeout_s: float = 60.0, **header: Any) -> Result:
        """Send a task and wait for its result."""
        return self.answer_to(self.train(node, task, **header), Result, timeout_s)

    def end(self, node: str, *, keep_states: Sequence[str] | None = (), epoch: int = 1) -> str:
        kept = None if keep_states is None else list(keep_states)
        return self.send(node, End(outcome="completed", keep_states=kept), epoch=epoch)

    def fetch(self, source: Result | Ref, folder: Path) -> dict[str, torch.Tensor]:
        """Return the parameters of a result, attached to it or in the repository, or those of a ref."""
        ref = source.params if isinstance(source, Result) else source
        assert ref is not None
        path = folder / ref.sha256
        if isinstance(source, Result) and ref.sha256 in source.attached:
            path.write_bytes(source.attached[ref.sha256])
        else:
            self.federation.repository.get(ref, path)
        return dict(FileParams(path).items())

    def events(self, type_: str) -> list[Event]:
        return [m.body for m in self.received if isinstance(m.body, Event) and m.body.type == type_]


__all__ = ["ADD_ONE", "Answer", "Federation", "Node", "Researcher", "plan_with"]
