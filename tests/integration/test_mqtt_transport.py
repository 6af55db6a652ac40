"""The MQTT transport against real brokers: Mosquitto and amqtt."""

from __future__ import annotations

import getpass
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import pytest

from fedjob.common.errors import BrokerUnreachable, SpecError
from fedjob.common.types import Address
from fedjob.hub.broker.mqtt_packets import CONNECT, SUBSCRIBE, Packets, kind_of
from fedjob.messaging.transport.mqtt import MqttTransport
from tests.bare_mqtt import packet, publish, text
from tests.parts import program
from tests.processes import Processes, Running, wait_until

HOSPITAL = Address("hospital")
ALICE = Address("alice", "s1")


class Broker:
    """A broker of either kind that can be killed and started again on its port."""

    def __init__(self, kind: str, processes: Processes, port: int, folder: Path) -> None:
        self.kind, self.port = kind, port
        self.url = f"mqtt://127.0.0.1:{port}"
        self._processes = processes
        self._folder = folder
        self._running: Running | None = None

    def start(self, *, users: dict[str, str] | None = None) -> None:
        start = self._start_mosquitto if self.kind == "mosquitto" else self._start_amqtt
        self._running = start(users)
        wait_until(self._answers, timeout_s=60, what=f"{self.kind} on port {self.port}")

    def kill(self) -> None:
        assert self._running is not None
        self._running.kill()

    def _start_mosquitto(self, users: dict[str, str] | None) -> Running:
        config = self._folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", f"user {getpass.getuser()}"]
        if users:
            passwords = self._folder / "passwords"
            passwords.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
            subprocess.run([program("mosquitto_passwd"), "-U", str(passwords)], check=True, timeout=20)
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines.append("allow_anonymous true")
        config.write_text("\n".join(lines) + "\n")
        return self._processes.start(program("mosquitto"), "-c", config, name="mosquitto")

    def _start_amqtt(self, users: dict[str, str] | None) -> Running:
        config = self._folder / "amqtt.yaml"
        plugins = "  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        if users:
            from pwdlib import PasswordHash
            from pwdlib.hashers.argon2 import Argon2Hasher

            hashed = PasswordHash((Argon2Hasher(),))
            passwords = self._folder / "amqtt-passwords"
            passwords.write_text("".join(f"{name}:{hashed.hash(word)}\n" for name, word in users.items()))
            plugins = f"  amqtt.plugins.authentication.FileAuthPlugin:\n    password_file: {passwords}\n"
        config.write_text(
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{self.port}\nplugins:\n{plugins}"
        )
        program = Path(sys.executable).with_name("amqtt")
        return self._processes.start(program, "-c", config, name="amqtt")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(
    request: pytest.FixtureRequest, processes: Processes, free_port: Callable[[], int], tmp_path: Path
) -> Broker:
    return Broker(request.param, processes, free_port(), tmp_path)


class Session:
    """A transport and what arrives at it."""

    def __init__(self, transport: MqttTransport) -> None:
        self.transport = transport
        self.frames: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connections: queue.Queue[bool] = queue.Queue()

    def open(self, timeout_s: float = 30.0) -> None:
        self.transport.open(
            lambda sender, frame: self.frames.put((sender, frame)),
            timeout_s=timeout_s,
            on_connection=self.connections.put,
        )


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    with ExitStack() as stack:

        def make(url: str, address: Address, user: str = "", password: str = "") -> Session:
            made = Session(MqttTransport(url, address, user, password))
            stack.callback(made.transport.close)
            return made

        yield make


def test_a_frame_sent_right_after_open_arrives_with_its_senders_name(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start()
    node, alice = session(broker.url, HOSPITAL), session(broker.url, ALICE)
    node.open()
    alice.open()
    for number in range(200):
        assert alice.transport.send(HOSPITAL, b"%d" % number)
    assert [node.frames.get(timeout=30) for _ in range(200)] == [("alice", b"%d" % n) for n in range(200)]
    assert node.transport.send(ALICE, b"\x00\xff")
    assert alice.frames.get(timeout=30) == ("hospital", b"\x00\xff")


def test_what_is_sent_to_everybody_reaches_daemons_and_no_researcher(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start()
    nodes = [session(broker.url, Address(f"site{i}")) for i in range(2)]
    alice = session(broker.url, ALICE)
    for one in (*nodes, alice):
        one.open()
    alice.transport.send(None, b"hello")
    assert [node.frames.get(timeout=30) for node in nodes] == [("alice", b"hello")] * 2
    assert alice.frames.empty()


def test_presence_shows_a_daemon_that_came_and_one_that_left(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start()
    node = session(broker.url, HOSPITAL)
    node.open()
    alice = session(broker.url, ALICE)
    alice.open()
    wait_until(lambda: alice.transport.presence() == {"hospital": True}, timeout_s=30, what="it came")
    node.transport.close()
    wait_until(lambda: alice.transport.presence() == {"hospital": False}, timeout_s=30, what="it left")


def test_a_daemon_that_sees_itself_called_away_says_that_it_is_there(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start()
    node, alice, other = (session(broker.url, address) for address in (HOSPITAL, ALICE, HOSPITAL))
    node.open()
    alice.open()
    other.open()  # as a daemon on a copy of the home does
    wait_until(
        lambda: node.transport.twin_seen and other.transport.twin_seen, timeout_s=30, what="both notice"
    )
    assert alice.transport.twin_seen == 0.0
    other.transport.close()  # it says that it is away, under the name of one that is not
    seen: list[bool | None] = []

    def back_again() -> bool:
        seen.append(alice.transport.presence().get("hospital"))
        return seen[-1] is True and node.transport.connected()

    wait_until(back_again, timeout_s=30, what="the other daemon to say that it is there")
    time.sleep(0.5)
    assert alice.transport.presence() == {"hospital": True}


def test_presence_shows_a_daemon_that_was_killed(
    broker: Broker, session: Callable[..., Session], processes: Processes
) -> None:
    broker.start()
    script = (
        "import time; from fedjob.common.types import Address\n"
        "from fedjob.messaging.transport.mqtt import MqttTransport\n"
        f"MqttTransport({broker.url!r}, Address('hospital')).open(lambda *frame: None, timeout_s=30)\n"
        "print('open', flush=True); time.sleep(60)"
    )
    daemon = processes.start("python", "-c", script, ready="^open")
    alice = session(broker.url, ALICE)
    alice.open()
    wait_until(lambda: alice.transport.presence() == {"hospital": True}, timeout_s=30, what="it came")
    daemon.kill()
    wait_until(lambda: alice.transport.presence() == {"hospital": False}, timeout_s=30, what="its will")


def test_after_the_broker_was_killed_and_came_back_the_subscriptions_stand_again(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start()
    node, alice = session(broker.url, HOSPITAL), session(broker.url, ALICE)
    for one in (node, alice):
        one.open()
        assert one.connections.get(timeout=30) is True
    broker.kill()
    for one in (node, alice):
        assert one.connections.get(timeout=30) is False
        assert not one.transport.connected()
        assert "broke" in one.transport.trouble or "answers" in one.transport.trouble
    assert not alice.transport.send(HOSPITAL, b"lost")
    broker.start()
    for one in (node, alice):
        assert one.connections.get(timeout=30) is True
        assert one.transport.connected()
    assert alice.transport.send(HOSPITAL, b"again")
    assert node.frames.get(timeout=30) == ("alice", b"again")


def test_wrong_credentials_are_told_from_a_broker_that_is_not_there(
    broker: Broker, session: Callable[..., Session]
) -> None:
    broker.start(users={"alice": "right"})
    good = session(broker.url, ALICE, "alice", "right")
    good.open()
    for timeout_s in (2, 30):  # a slow machine hears nothing in two seconds
        with pytest.raises(BrokerUnreachable) as refused:
            session(broker.url, ALICE, "alice", "wrong").open(timeout_s=timeout_s)
        if "did not answer" not in str(refused.value):
            break
    assert re.search(r"refuses alice .*enrol again", str(refused.value))
    broker.kill()
    with pytest.raises(BrokerUnreachable, match="is the hub running") as caught:
        session(broker.url, ALICE, "alice", "right").open(timeout_s=1)
    assert broker.url in str(caught.value)


def test_something_that_never_answers_is_given_up_in_time(
    free_port: Callable[[], int], session: Callable[..., Session]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", free_port()))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match="is it an MQTT broker"):
            session(f"mqtt://127.0.0.1:{silent.getsockname()[1]}", ALICE).open(timeout_s=1.5)
        assert time.monotonic() - began < 20


SPOILED = {
    "a topic that is no UTF-8": packet(0x30, text(b"fedjob/1/to/alice/s1/from/h\xb9spital") + b"\x00x"),
    "a topic beyond the packet's end": packet(0x30, b"\xff\xff" + b"fedjob"),
    "a message without a topic": packet(0x30, b""),
    "a topic of one level": packet(0x30, text(b"x") + b"\x00"),
    "presence of nobody": packet(0x30, text(b"fedjob/1/presence") + b"\x00"),
    "a message of quality 3": packet(0x36, text(b"fedjob/1/all/from/x") + b"\x00\x01x"),
    "an answer without a body": packet(0x40, b""),
    "subscriptions without a body": packet(0x90, b""),
    "a login's answer without a body": packet(0x20, b""),
    "a kind that is none": packet(0x00, b"x"),
    "a kind that clients send": packet(0x82, b"\x00\x01"),
    "noise": b"\x32\xb9\xff\xff\xff\xff\xff\x01noise",
}


class SpoilingBroker:
    """A broker that lets its one client in, and sends it spoiled bytes and then a message, on each connection the next of each."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._left = list(SPOILED.items())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):
                    self._converse(line)

    def _converse(self, line: socket.socket) -> None:
        line.settimeout(0.5)
        packets, new = Packets(1 << 20), self._version == 5
        while True:
            try:
                block = line.recv(1 << 16)
                if not block:
                    return
            except TimeoutError:  # it bore what came last
                self._send_next(line)
                continue
            for each in packets.feed(block):
                if kind_of(each) == CONNECT:
                    line.sendall(packet(0x20, b"\x00\x00\x00" if new else b"\x00\x00"))
                elif kind_of(each) == SUBSCRIBE:
                    number = each[2:4]
                    line.sendall(packet(0x90, number + (b"\x00" if new else b"") + b"\x01\x01"))
                    self._send_next(line)

    def _send_next(self, line: socket.socket) -> None:
        line.sendall(publish("fedjob/1/to/alice/s1/from/hospital", b"fine", version=self._version))
        if self._left:
            line.sendall(self._left.pop(0)[1])
        else:
            line.sendall(publish("fedjob/1/to/alice/s1/from/hospital", b"last", version=self._version))


@pytest.mark.parametrize("version", [4, 5])
def test_no_bytes_from_a_broker_end_a_session_for_good(version: Literal[4, 5]) -> None:
    """They end the connection at most, and the owner hears of that; the next one carries messages again."""
    broker = SpoilingBroker(version)
    session = Session(MqttTransport(broker.url, ALICE, version=version))
    try:
        session.open()
        deadline = time.monotonic() + 90
        while session.frames.get(timeout=max(0.1, deadline - time.monotonic())) != ("hospital", b"last"):
            pass
        heard = [session.connections.get() for _ in range(session.connections.qsize())]
        assert heard == [k % 2 == 0 for k in range(len(heard))]
        assert len(heard) >= 5
        assert session.transport.connected()
    finally:
        session.transport.close()
        broker.close()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(SpecError, match="mqtts://"):
        MqttTransport("http://127.0.0.1", ALICE)
