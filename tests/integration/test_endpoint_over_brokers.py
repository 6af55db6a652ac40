"""Endpoints over real brokers: nothing lost and nothing doubled while the broker is killed and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Role, Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.messages import Event, Message, Ping, Pong, Result, Task
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import MqttTransport
from tests.integration.test_mqtt_transport import Broker
from tests.processes import Processes

pytestmark = pytest.mark.timeout(300)

ALICE, SITE = Identity.generate("alice"), Identity.generate("site")
AT_ALICE, AT_SITE = Address("alice", "s1"), Address("site")


@dataclass(frozen=True)
class Entry:
    role: str
    key_hex: str
    revoked: bool = False
    sealing_hex: str = ""
    valid_from: float = 0
    valid_until: float = 0


ROSTER = Roster(
    {"alice": Entry("researcher", ALICE.public_key_hex), "site": Entry("node", SITE.public_key_hex)}
)


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(
    request: pytest.FixtureRequest, processes: Processes, free_port: Callable[[], int], tmp_path: Path
) -> Broker:
    made = Broker(request.param, processes, free_port(), tmp_path)
    made.start()
    return made


@pytest.fixture
def endpoint(broker: Broker) -> Iterator[Callable[[Identity, Address, Role], Endpoint]]:
    with ExitStack() as stack:

        def make(identity: Identity, address: Address, role: Role) -> Endpoint:
            made = Endpoint(
                identity, "fed", ROSTER, MqttTransport(broker.url, address), MemoryStore(), role
            )  # fmt: skip
            made.start(10)
            stack.callback(made.stop)
            return made

        yield make


def receive_all(endpoint: Endpoint, count: int, timeout_s: float) -> list[Message]:
    deadline = time.monotonic() + timeout_s
    got: list[Message] = []
    while len(got) < count and time.monotonic() < deadline:
        messages = endpoint.receive(0.2)
        endpoint.settle(messages)
        got += messages
    return got


def test_a_thousand_tasks_and_their_answers_arrive_once_each(
    endpoint: Callable[[Identity, Address, Role], Endpoint],
) -> None:
    site, alice = endpoint(SITE, AT_SITE, "node"), endpoint(ALICE, AT_ALICE, "researcher")
    asked = [alice.send(AT_SITE, Task(dataset="d", protocol="fedavg", seed=n)) for n in range(1000)]
    tasks = receive_all(site, 1000, 90)
    assert sorted(task.id for task in tasks) == sorted(asked)
    for task in tasks:
        site.send(AT_ALICE, Result(of=task.id, key="k", ok=True))
    results = receive_all(alice, 1000, 90)
    assert sorted(r.body.of for r in results if isinstance(r.body, Result)) == sorted(asked)
    deadline = time.monotonic() + 60
    while (alice.undelivered() or site.undelivered()) and time.monotonic() < deadline:
        alice.receive(0.05)
        site.receive(0.05)
    assert alice.undelivered() == site.undelivered() == 0


def test_a_broker_that_is_killed_loses_nothing_and_doubles_nothing(
    broker: Broker, endpoint: Callable[[Identity, Address, Role], Endpoint]
) -> None:
    site, alice = endpoint(SITE, AT_SITE, "node"), endpoint(ALICE, AT_ALICE, "researcher")
    asked = [alice.send(AT_SITE, Task(dataset="d", protocol="fedavg", seed=n)) for n in range(100)]
    broker.kill()
    asked += [alice.send(AT_SITE, Task(dataset="d", protocol="fedavg", seed=n)) for n in range(100)]
    got = site.receive(0.5)
    site.settle(got)
    broker.start()
    deadline = time.monotonic() + 90
    while (alice.undelivered() or len(got) < 200) and time.monotonic() < deadline:
        alice.receive(0.05)
        messages = site.receive(0.05)
        site.settle(messages)
        got += messages
    assert sorted(task.id for task in got) == sorted(asked)
    assert alice.undelivered() == 0


def test_a_ping_an_event_and_a_wake_come_through_at_once(
    endpoint: Callable[[Identity, Address, Role], Endpoint],
) -> None:
    site, alice = endpoint(SITE, AT_SITE, "node"), endpoint(ALICE, AT_ALICE, "researcher")
    id_ = alice.send(None, Ping())
    (ping,) = site.receive(30)
    assert (ping.id, ping.to) == (id_, "")
    site.send(AT_ALICE, Pong(of=ping.id))
    site.send(AT_ALICE, Event(type="log", data={"text": "hello"}), job="job_1")
    got = receive_all(alice, 2, 30)
    assert [type(message.body) for message in got] == [Pong, Event]
    alice.wake()
    assert alice.receive(10) == []
