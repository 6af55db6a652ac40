"""Light nodes, many in a process: real keys, homes, frames, MQTT and HTTP, and next to no work behind them.

python benchmarks/_crowd.py HUB FOLDER FIRST NUMBER [INVITATIONS]

A light node enrols as `fedjob node init` does, connects as `fedjob node start` does, and answers pings, searches,
offers and tasks through the endpoint, the courier and the repository's client of a daemon. It has no queue, no
database and no workers: it adds its own number to the parameters itself.
"""

from __future__ import annotations

import copy
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob.common.errors import FedjobError
from fedjob.common.types import Address, Ref
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import Membership, hub_of
from fedjob.identity.party_list import PartyList
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Answer, Body, Found, Message, Offer, Ping, Pong, Result, Search, Task
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import transport_of
from fedjob.parameters.files import FileParams, save_params
from fedjob.repository import open_repository

NUM_ROWS = 8
COLUMNS = [{"name": f"column_{k}", "type": "float64"} for k in range(12)]
DATASET = {"name": "bench", "tags": ["bench"], "reader": "npz", "num_rows": NUM_ROWS, "columns": COLUMNS}
ENROL_AT_ONCE = 8
NICE = 10
STACK_BYTES = 512 << 10
SWITCH_S = 0.05
"""Between threads that compute: hundreds that wait for their turn would each wake up every 5 ms to ask for it."""


class KnownParties:
    """The list of parties, fetched whole once for all nodes of a process: with each its own it would fill the memory.

    What has changed since then each node asks the hub for itself.
    """

    def __init__(self) -> None:
        self._list: PartyList | None = None
        self._lock = threading.Lock()

    def copy_for(self, membership: Membership) -> PartyList:
        """Return the list as another party follows it from now on."""
        with self._lock:
            if self._list is None:
                self._list = PartyList(membership)
                self._list.fetch()
            copied = copy.copy(self._list)
        copied._membership = membership
        return copied


class LightNode:
    """One node: its thread waits for messages and answers them."""

    def __init__(self, hub: str, folder: Path, number: int, invite: Path | None, known: KnownParties) -> None:
        self._known = known
        self.name = f"node-{number:04d}"
        self._home = folder / self.name
        self._hub = hub
        self._invite = invite
        self._number = 1.0 + 0.01 * number
        self._plans: dict[str, bytes] = {}
        self._stopping = False
        self.num_received = 0
        self.counters: Counter[str] = Counter()

    def enrol(self) -> None:
        """Make a home with keys and join the federation."""
        self._membership, self._identity = enrol_home(
            self._home, self.name, "node", hub=self._hub, invite=self._invite
        )

    def connect(self) -> None:
        """Fetch the roster, connect to the broker and show presence."""
        membership = self._membership
        facts = hub_of(membership)
        parties = self._known.copy_for(membership)
        roster = Roster(parties.fetch(), parties.fetch)
        transport = transport_of(replace(membership, broker_url=facts.broker_url), Address(self.name))
        self._endpoint = Endpoint(
            self._identity, membership.federation, roster, transport, MemoryStore(), "node"
        )
        self._repository = open_repository(
            membership.hub_url,
            token=membership.token,
            verify=membership.verify,
            proxy=membership.proxy,
            credentials=membership.credentials,
        )
        self.counters = self._endpoint.counters
        self.roster = roster
        self._endpoint.start(60)
        threading.Thread(target=self._serve, name=self.name, daemon=True).start()

    def stop(self) -> None:
        """Leave the broker, as a node does that is stopped."""
        self._stopping = True
        self._endpoint.stop()

    def _serve(self) -> None:
        while not self._stopping:
            messages = self._endpoint.receive(5.0)
            self.num_received += len(messages)
            for message in messages:
                try:
                    body = self._answer(message)
                except FedjobError as error:
                    print(f"{self.name}: {type(error).__name__}: {error}", flush=True)
                    continue
                if body is not None:
                    self._endpoint.send(
                        parse_address(message.reply_to), body, job=message.job, epoch=message.epoch
                    )
            self._endpoint.settle(messages)

    def _answer(self, message: Message) -> Body | None:
        match message.body:
            case Ping():
                return Pong(of=message.id, version="1", num_datasets=1, free=1, ready=True, workers=1)
            case Search():
                return Found(of=message.id, datasets=[DATASET])
            case Offer(plan=plan):
                if plan is not None and plan.sha256 not in self._plans:
                    self._plans[plan.sha256] = self._repository.get_bytes(plan, limit_bytes=1 << 20)
                return Answer(of=message.id, status="not-needed", num_rows=NUM_ROWS, workers=1)
            case Task() as task:
                return self._work(message, task)
            case _:
                return None

    def _work(self, message: Message, task: Task) -> Result:
        """Add this node's number to the parameters, and store the sum for the one who asked."""
        [ref] = task.params.values()
        started = time.monotonic()
        source, target = self._home / "in", self._home / "out"
        self._repository.get(ref, source)
        params = {name: tensor + self._number for name, tensor in FileParams(source).items()}
        target.unlink(missing_ok=True)
        save_params(params, target, durable=False)
        stored: Ref = self._repository.put(target, job=message.job, readers=[message.sender])
        return Result(
            of=message.id,
            key=message.task,
            ok=True,
            params=stored,
            weight=float(NUM_ROWS),
            num_examples=NUM_ROWS,
            timing={"total": time.monotonic() - started},
            rows={"registered": NUM_ROWS, "read": NUM_ROWS, "used": NUM_ROWS},
        )


def main() -> None:
    """Enrol and connect the nodes, say how long that took, and serve until SIGTERM."""
    hub, folder, first, number, *invitations = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.nice(
        NICE
    )  # nodes have machines of their own: they don't take the processor from the hub and the researcher
    threading.stack_size(STACK_BYTES)
    sys.setswitchinterval(SWITCH_S)
    invites = (
        [Path(invitations[0]) / f"node-{k:04d}.invitation" for k in range(int(number))] if invitations else []
    )
    known = KnownParties()
    nodes = [
        LightNode(hub, Path(folder), int(first) + k, invites[k] if invites else None, known)
        for k in range(int(number))
    ]
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    with ThreadPoolExecutor(ENROL_AT_ONCE) as pool:
        for what in (LightNode.enrol, LightNode.connect):
            began = time.monotonic()
            list(pool.map(what, nodes))
            print(f"{what.__name__} took {time.monotonic() - began:.2f} s", flush=True)
    stop.wait()
    counters: Counter[str] = Counter()
    for node in nodes:
        counters.update(node.counters)
    problems = Counter(str(node.roster.last_error)[:200] for node in nodes if node.roster.last_error)
    print(
        f"received: {sum(node.num_received for node in nodes)}, dropped: {dict(counters)} {dict(problems) or ''}",
        flush=True,
    )
    with ThreadPoolExecutor(ENROL_AT_ONCE) as pool:
        list(pool.map(LightNode.stop, nodes))


if __name__ == "__main__":
    main()
