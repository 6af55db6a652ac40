"""A researcher's half of a large round: totals that are added, written and sent at the same time, over a line with faults.

Everything is real but the nodes: contributions lie in files, an aggregator adds them, and acts at a stretch as a test
wants it. As a script it is the process of a researcher that is killed in the middle.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch

from fedjob.aggregation.base import Origin
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import WeightedMean
from fedjob.aggregation.stretches import STRETCH, StretchedTotal, stretched
from fedjob.common.http_client import Patience
from fedjob.common.types import Address, new_job_id
from fedjob.identity.party_list import fetch_parties
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport
from fedjob.parameters.files import FileParams, save_params
from fedjob.repository.http import HttpRepository
from fedjob.repository.job_secrets import JobSecrets
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.joining import join
from fedjob.researcher.federation.remote import RemoteFederation
from fedjob.researcher.rounds.tasks import TaskBuilder
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import job_folder
from fedjob.researcher.storage.spec import Component, JobSpec

NUM_STRETCHES = 12
PART_BYTES = 4 << 20
"""Of a total of 12 MB, which is stored as four parts."""

NODES = ("node-a", "node-b")

QUICK = Patience(connect_s=2, idle_s=2, num_retries=3, backoff_s=0.05, max_backoff_s=0.2)


@dataclass(frozen=True, slots=True)
class Acting(WeightedMean):
    """The weighted mean; before it adds a stretch, it does what a test wants done then.

    Args:
        act: is given the number of the stretch, from 0 on.
    """

    name: ClassVar[str] = "acting"
    elementwise: ClassVar[bool] = True
    act: Callable[[int], object] = lambda number: None
    _added: list[int] = field(default_factory=list)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        if contributions[0].value is not None:
            self.act(len(self._added))
            self._added.append(len(self._added))
        return WeightedMean().aggregate(contributions, origin)


def contributions(folder: Path) -> list[Contribution]:
    """Return those of two nodes; the same ones every time."""
    found = []
    for seed, node in enumerate(NODES):
        path = folder / f"of_{node}.safetensors"
        if not path.exists():
            numbers = torch.randn(NUM_STRETCHES * STRETCH, generator=torch.Generator().manual_seed(seed))
            own = path.with_name(f"{secrets.token_hex(4)}.tmp")  # two jobs at once may write them
            save_params({"w": numbers}, own, durable=False)
            own.replace(path)
        found.append(Contribution(FileParams(path), 1.0 + seed))
    return found


class Researcher:
    """A party with a home, as a context manager; it reaches the hub's messages in memory and its repository over `way`.

    Args:
        folder: its home, which may have joined before.
        hub: URL that it joins at, and asks whether the hub is there.
        way: URL of the line that its objects take; None for none.
    """

    def __init__(
        self,
        folder: Path,
        hub: str,
        *,
        way: str | None = None,
        encrypted: bool = False,
        patience: Patience = QUICK,
    ) -> None:
        self.folder = folder
        self.member, self.identity = join(folder, hub=hub, id="lab", invite=None)
        self._way, self._encrypted, self._patience = way or hub, encrypted, patience
        self._stack = ExitStack()

    def __enter__(self) -> Researcher:
        roster = Roster(fetch_parties(self.member), lambda: fetch_parties(self.member))
        transport = MemoryTransport(MemoryBroker(), Address("lab", secrets.token_hex(4)))
        endpoint = Endpoint(
            self.identity, self.member.federation, roster, transport, MemoryStore(), "researcher"
        )
        endpoint.start(5)
        repository = HttpRepository(
            self._way, token=self.member.token, part_bytes=PART_BYTES, patience=self._patience
        )
        repository.encrypt(JobSecrets(self.folder / "keys"), encrypted=self._encrypted)
        local = replace(self.member, broker_url="memory://")
        self.connection = Connection(
            self.folder, local, self.identity, endpoint, repository, roster, MemoryStore()
        )
        self._stack.callback(self.connection.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def job(self, id_: str = "") -> Totals:
        """Return a job of two nodes, new or as it was."""
        spec = JobSpec(
            id=id_ or new_job_id(),
            protocol=Component(name="fedavg"),
            rounds=9,
            seed=1,
            datasets={node: {"name": "d", "num_rows": 10} for node in NODES},
        )
        return Totals(self, spec, self._stack)


class Totals:
    """A job's totals."""

    def __init__(self, researcher: Researcher, spec: JobSpec, stack: ExitStack) -> None:
        folder = job_folder(researcher.folder, spec.id)
        if not folder.path.exists():
            folder.create()
        events = EventLog(folder.events, spec.id)
        self.spec, self.folder, self._researcher = spec, folder.path, researcher
        self.federation = RemoteFederation(researcher.connection, spec, folder, events, epoch=1, attempt=1)
        stack.callback(self.federation._pool.shutdown)
        stack.callback(events.close)
        self.tasks = TaskBuilder(
            spec=spec, federation=self.federation, folder=folder, events=events, code={}, named_states=dict
        )

    def total(self, act: Callable[[int], object] = lambda number: None) -> StretchedTotal:
        """Return what is yet to be computed of the contributions."""
        found = stretched(Acting(act), contributions(self._researcher.folder))
        assert found is not None
        assert isinstance(found.value, StretchedTotal)
        return found.value

    def undisturbed(self, path: Path) -> bytes:
        """Return the bytes that any of its totals has to come to."""
        self.tasks.computed(self.total(), path, publishes=False)
        return path.read_bytes()

    def computed(self, path: Path, act: Callable[[int], object] = lambda number: None) -> FileParams:
        """Add the contributions up, into a file that is sent while it is written."""
        return self.tasks.computed(self.total(act), path, publishes=True)


def main(order: dict[str, str]) -> None:
    """Die while the first half of a total has been sent, and its third part is on its way."""

    def die(number: int) -> None:
        if number == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    with Researcher(Path(order["folder"]), order["hub"]) as researcher:
        researcher.job(order["job"]).computed(Path(order["total"]), die)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
