"""The watch of a daemon: one line in the log for each change of its connection, its clock and its namesakes."""

from __future__ import annotations

import logging
import time

import pytest

from fedjob.common.errors import RepositoryUnreachable
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.party_list import Party
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.messages import Ping
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport
from fedjob.node.daemon.connection_watch import ConnectionWatch
from tests.processes import wait_until


class Namesakes(MemoryTransport):
    """A transport whose party has a second daemon from time to time."""

    seen = 0.0

    @property
    def twin_seen(self) -> float:
        return self.seen


PARTIES: dict[str, Party] = {}


def endpoint(transport: MemoryTransport, role: str = "node", wall_ahead_s: float = 0.0) -> Endpoint:
    identity = Identity.generate(transport.address.party)
    PARTIES[identity.party] = Party(identity.party, role, identity.public_key_hex)
    return Endpoint(
        identity,
        "ward",
        Roster(PARTIES, lambda: PARTIES),
        transport,
        MemoryStore(),
        role,  # type: ignore[arg-type]
        wall=lambda: time.time() + wall_ahead_s,
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def test_an_idle_node_that_loses_the_broker_says_so_once_and_when_it_is_back(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedjob")
    node = endpoint(MemoryTransport(broker, Address("ward")))
    node.start(1)
    watch = ConnectionWatch(node, None)
    for now in range(5):
        watch.look(float(now))
    broker.stop()
    for now in range(5, 65):
        watch.look(float(now))
    assert watch.facts()["trouble"]
    broker.start()
    watch.look(65.0)
    assert watch.facts()["trouble"] == ""
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert caplog.records[-1].message == "connected to the broker after 60 s"


def test_a_second_daemon_is_an_error_for_as_long_as_it_is_seen(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedjob")
    transport = Namesakes(broker, Address("ward"))
    now = 1000.0
    watch = ConnectionWatch(endpoint(transport), None, wall=lambda: now)
    watch.look(0.0)
    assert watch.facts()["twin"] is False
    transport.seen = 1000.0
    watch.look(1.0)
    watch.look(2.0)
    assert watch.facts()["twin"] is True
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert "another daemon runs under this node's name" in caplog.text
    now = 1200.0
    watch.look(3.0)
    assert watch.facts()["twin"] is False


def test_a_wrong_clock_is_found_by_the_hubs_and_right_again_when_it_is_set(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedjob")
    ahead_s: list[float | None] = [900.0, None, 0.0]

    def ask() -> float | None:
        if (found := ahead_s.pop(0)) is None:
            raise RepositoryUnreachable("away")
        return found

    watch = ConnectionWatch(endpoint(MemoryTransport(broker, Address("ward"))), ask)
    watch.look(0.0)
    wait_until(lambda: "900 s slow" in watch.facts()["clock"], timeout_s=10, what="the first comparison")
    watch.look(601.0)
    wait_until(lambda: len(ahead_s) == 1, timeout_s=10, what="the second, which the hub does not answer")
    assert "900 s slow" in watch.facts()["clock"]
    watch.look(1202.0)
    wait_until(lambda: watch.facts()["clock"] == "", timeout_s=10, what="the third")
    wait_until(lambda: "this machine's clock is right again" in caplog.text, timeout_s=10, what="its line")


def test_a_sender_whose_clock_is_wrong_is_named_once_with_the_seconds(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="fedjob")
    lab = endpoint(MemoryTransport(broker, Address("lab", "s1")), "researcher", wall_ahead_s=-900.0)
    node = endpoint(MemoryTransport(broker, Address("ward")))
    lab.start(1)
    node.start(1)
    watch = ConnectionWatch(node, None)
    for _ in range(2):
        lab.send(None, Ping())
        assert node.receive(0.2) == []
        watch.look(0.0)
    lines = [record.message for record in caplog.records if "lab" in record.message]
    assert len(lines) == 1
    assert "its messages are dated 900 s in the past" in lines[0]
