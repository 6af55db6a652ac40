"""A Mosquitto that somebody else runs, with the file that is shipped for it: each party is who its certificate names."""

from __future__ import annotations

import getpass
import os
import queue
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedjob.common.errors import BrokerUnreachable
from fedjob.common.network.credentials import Credentials
from fedjob.common.types import Address
from fedjob.doctor.findings import Finding
from fedjob.hub.config.home import HubHome
from fedjob.hub.doctor import examine
from fedjob.identity.membership import Membership
from fedjob.messaging.transport.mqtt import MqttTransport, transport_of
from tests.parts import program
from tests.processes import Processes, Running, wait_until
from tests.tls_hubs import TlsHub

pytestmark = [
    pytest.mark.timeout(180),
    # paho leaves the socket of a failed handshake to the garbage collector, which warns
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHIPPED = Path(__file__).parents[2] / "envs" / "mosquitto" / "mosquitto.conf"
QUIET_S = 1.0


@dataclass
class World:
    """A hub, its parties a and b, and the broker that it names and somebody else runs."""

    hub: TlsHub
    broker: Running
    port: int
    a: Membership
    b: Membership

    def reload(self) -> None:
        """Tell the broker that its files have changed."""
        os.kill(self.broker.pid, signal.SIGHUP)
        time.sleep(0.5)


@dataclass
class Session:
    """A party's session and what arrived in it."""

    transport: MqttTransport
    frames: queue.Queue[tuple[str, bytes]] = field(default_factory=queue.Queue)

    def open(self, timeout_s: float = 20) -> None:
        self.transport.open(lambda sender, frame: self.frames.put((sender, frame)), timeout_s=timeout_s)

    def next(self, timeout_s: float = 20) -> tuple[str, bytes] | None:
        with suppress(queue.Empty):
            return self.frames.get(timeout=timeout_s)
        return None


def configuration(hub: TlsHub, port: int, folder: Path, text: str) -> Path:
    """Write the file that is shipped, with a test's paths and port."""
    pair = hub.authority.server("broker", "127.0.0.1")
    files = hub.folder / "hub"
    for place, path in {
        "/etc/mosquitto/certs/fullchain.pem": pair.cert,
        "/etc/mosquitto/certs/privkey.pem": pair.key,
        "/etc/mosquitto/certs/parties-ca.pem": files / "client-authority" / "certificate.pem",
        "/etc/mosquitto/fedjob/acl": files / "broker" / "acl",
        "/etc/mosquitto/fedjob/passwords": files / "broker" / "passwords",
    }.items():
        text = text.replace(place, str(path))
    text = text.replace("listener 8883", f"user {getpass.getuser()}\nlistener {port} 127.0.0.1")
    path = folder / "mosquitto.conf"
    path.write_text(text.replace("log_dest syslog", "log_dest stderr"), encoding="utf-8")
    assert "/etc/" not in re.sub(r"^#.*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return path


def started(processes: Processes, mosquitto: str, config: Path, port: int) -> Running:
    """Start the broker; return when it listens."""
    broker = processes.start(mosquitto, "-c", config, name="mosquitto")

    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
        return False

    wait_until(listens, timeout_s=30, what="the broker to listen")
    return broker


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[World]:
    mosquitto, folder, port = program("mosquitto"), tmp_path_factory.mktemp("others"), free_port()
    with (
        Processes(folder / "logs") as processes,
        TlsHub(folder, broker_url=f"mqtts://127.0.0.1:{port}", mqtt_port=None) as hub,
    ):
        a, b = hub.join("a"), hub.join("b", "researcher")
        acl = folder / "hub" / "broker" / "acl"
        wait_until(lambda: "user b" in acl.read_text(), timeout_s=20, what="the hub to write the rights")
        config = configuration(hub, port, folder, SHIPPED.read_text(encoding="utf-8"))
        broker = started(processes, mosquitto, config, port)
        yield World(hub, broker, port, a, b)


@pytest.fixture
def session(world: World) -> Iterator[Callable[..., Session]]:
    with ExitStack() as stack:

        def make(member: Membership, address: Address, credentials: Credentials | None = None) -> Session:
            transport = transport_of(member, address)
            if credentials is not None:
                transport = MqttTransport(
                    member.broker_url, address, member.party, member.broker_password,
                    tls_ca=world.hub.ca, credentials=credentials,
                )  # fmt: skip
            stack.callback(transport.close)
            return Session(transport)

        yield make


def test_parties_with_their_certificates_reach_one_another(
    world: World, session: Callable[..., Session]
) -> None:
    assert world.a.broker_url == f"mqtts://127.0.0.1:{world.port}"
    one, other = session(world.a, Address("a")), session(world.b, Address("b", "s1"))
    one.open()
    other.open()
    assert one.transport.send(other.transport.address, b"from a")
    assert other.next() == ("a", b"from a")


def test_a_password_without_its_certificate_opens_nothing(world: World) -> None:
    transport = MqttTransport(
        world.b.broker_url, Address("b", "s2"), "b", world.b.broker_password, tls_ca=world.hub.ca
    )
    with pytest.raises(BrokerUnreachable):
        transport.open(lambda *_: None, timeout_s=3)


def test_a_party_with_its_certificate_and_anothers_password_is_no_other_party(
    world: World, session: Callable[..., Session]
) -> None:
    """Mosquitto looks at the certificate alone: what it asks for in the other's name is refused, or comes to nothing."""
    victim = session(world.b, Address("b", "s3"))
    victim.open()
    thief = session(world.b, Address("b", "s3"), world.a.credentials)
    with suppress(BrokerUnreachable):  # it may refuse the subscription
        thief.open(5)
    own = session(world.a, Address("a", "s4"))
    own.open()
    own.transport.send(victim.transport.address, b"for b alone")
    thief.transport.send(own.transport.address, b"in the name of b")
    assert victim.next() == ("a", b"for b alone")
    assert thief.next(QUIET_S) is None
    assert own.next(QUIET_S) is None


def broker_row(world: World) -> Finding:
    (found,) = [
        row for row in examine(HubHome(world.hub.folder / "hub")) if row.check == "broker certificates"
    ]
    return found


def test_the_hubs_doctor_says_that_the_broker_takes_names_from_certificates(world: World) -> None:
    found = broker_row(world)
    assert found.ok, found
    assert "takes each party's name from its certificate" in found.found


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("use_identity_as_username true", "password with the certificate of another party"),
        ("require_certificate true", "whoever has a party's password is let in"),
    ],
)
def test_the_hubs_doctor_names_a_broker_that_does_not(
    without: str, words: str, tmp_path: Path, processes: Processes, free_port: Callable[[], int]
) -> None:
    mosquitto, port = program("mosquitto"), free_port()
    text = SHIPPED.read_text(encoding="utf-8").replace("#password_file", "password_file")
    for line in {without, "use_identity_as_username true"}:
        assert line in text
        text = text.replace(line, "")
    with TlsHub(tmp_path, broker_url=f"mqtts://127.0.0.1:{port}", mqtt_port=None) as hub:
        config = configuration(hub, port, tmp_path, text)
        broker = started(processes, mosquitto, config, port)
        member = hub.join("a")
        found = broker_row(World(hub, broker, port, member, member))
    assert not found.ok
    assert words in found.found
    assert "use_identity_as_username" in found.advice
    assert "envs/mosquitto" in found.advice


def test_a_revoked_party_hears_and_says_nothing_once_the_broker_knows(
    world: World, session: Callable[..., Session]
) -> None:
    gone = world.hub.join("gone")
    acl = world.hub.folder / "hub" / "broker" / "acl"
    wait_until(lambda: "user gone" in acl.read_text(), timeout_s=20, what="its rights")
    world.reload()
    here, there = session(gone, Address("gone")), session(world.b, Address("b", "s5"))
    here.open()
    there.open()
    here.transport.send(there.transport.address, b"one")
    assert there.next() == ("gone", b"one")
    world.hub.parties().revoke("gone")
    wait_until(lambda: "user gone" not in acl.read_text(), timeout_s=30, what="its rights to go")
    world.reload()
    here.transport.send(there.transport.address, b"two")
    there.transport.send(here.transport.address, b"three")
    assert there.next(QUIET_S) is None
    assert here.next(QUIET_S) is None
