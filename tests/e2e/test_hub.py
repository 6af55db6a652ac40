"""The hub as a process of its own, with each broker: start and end, rights at the broker, the command line."""

from __future__ import annotations

import datetime
import ipaddress
import json
import queue
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from fedjob.common.errors import NotPermitted, RepositoryUnreachable
from fedjob.common.types import Address
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import Membership, enrol, fetch_hub
from fedjob.identity.party_list import fetch_parties
from fedjob.messaging.transport.mqtt import MqttTransport, transport_of
from fedjob.repository import open_repository
from tests.hubs import keys_of
from tests.parts import program
from tests.processes import Processes, Running, wait_until

pytestmark = pytest.mark.timeout(300)

READY = r"^hub ready: (\S+) (\S+) \(broker: (\w+)"
KINDS = ("mosquitto", "amqtt")


@dataclass
class RunningHub:
    """A hub's process and what it said."""

    process: Running
    home: Path
    url: str
    broker_url: str
    kind: str
    command: list[str] = field(default_factory=list)

    def broker(self) -> psutil.Process | None:
        children = psutil.Process(self.process.pid).children()
        return next((c for c in children if c.status() != psutil.STATUS_ZOMBIE), None)

    def join(self, party: str, role: str = "node") -> Membership:
        return enrol(self.url, party, role, keys_of(party))


Start = Callable[..., RunningHub]


@pytest.fixture
def start(processes: Processes, tmp_path: Path) -> Start:
    def start(
        kind: str = "auto", *options: str, home: str = "hub", ports: tuple[int, int] = (0, 0)
    ) -> RunningHub:
        if kind == "mosquitto":
            program("mosquitto")
        folder = tmp_path / home
        command = ["python", "-m", "fedjob.hub", "start", "--home", str(folder), "--broker-kind", kind]
        command += ["--port", str(ports[0]), "--mqtt-port", str(ports[1]), *options]
        process = processes.start(*command, ready=READY, name="hub")
        found = process.wait_for(READY)
        return RunningHub(process, folder, found[1], found[2], found[3], command)

    return start


@pytest.fixture(params=KINDS)
def hub(request: pytest.FixtureRequest, start: Start) -> RunningHub:
    running = start(request.param)
    assert running.kind == request.param
    return running


class Client:
    """A bare MQTT client, so that it can do what fedjob's own never would."""

    def __init__(
        self, hub: RunningHub, user: str | None, password: str = "", will: str | None = None
    ) -> None:
        self.got: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.rc: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._acks: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{user}:{secrets.token_hex(8)}")
        if user is not None:
            self._client.username_pw_set(user, password)
        if will is not None:
            self._client.will_set(will, b"spoofed", qos=1, retain=True)
        self._client.on_connect = lambda c, u, flags, code, p: self.rc.put(not code.is_failure)
        self._client.on_subscribe = lambda c, u, mid, codes, p: self._acks.put(mid)
        self._client.on_message = lambda c, u, message: self.got.put(message.topic)
        host, port = hub.broker_url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        self.let_in = self.rc.get(timeout=10)

    def subscribe(self, *topics: str) -> Client:
        for topic in topics:
            self._client.subscribe(topic, qos=1)
            self._acks.get(timeout=10)
        return self

    def publish(self, topic: str, *, retain: bool = False) -> None:
        self._client.publish(topic, b"x", qos=1, retain=retain).wait_for_publish(10)

    def break_off(self) -> None:
        """Go without a word, so that the will is published."""
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    def close(self) -> None:
        with suppress(Exception):
            self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def connect(
            hub: RunningHub, user: str | Membership | None, password: str = "", **more: str
        ) -> Client:
            if isinstance(user, Membership):
                user, password = user.party, user.broker_password
            made = Client(hub, user, password, **more)
            stack.callback(made.close)
            return made

        yield connect


def refused(client: Callable[..., Client], hub: RunningHub, *who: str | Membership | None) -> bool:
    try:
        return not client(hub, *who).let_in
    except queue.Empty:
        return True  # closed without a word


def test_it_says_one_line_when_ready_and_ends_its_broker(hub: RunningHub) -> None:
    assert len(re.findall(READY, hub.process.log(), re.MULTILINE)) == 1
    info = fetch_hub(hub.url)
    assert (info.broker_url, info.broker_kind) == (hub.broker_url, hub.kind)
    assert re.match(r"\d+\.\d+", info.broker_version)
    broker = hub.broker()
    assert broker is not None
    assert hub.process.stop() == 0
    assert not broker.is_running()
    assert "Traceback" not in hub.process.log()


def test_a_new_party_connects_at_once(hub: RunningHub, client: Callable[..., Client]) -> None:
    for number in range(3):
        member = hub.join(f"node-{number}")
        assert client(hub, member).let_in


def test_only_members_get_in(hub: RunningHub, client: Callable[..., Client]) -> None:
    member = hub.join("node-a")
    assert client(hub, member).let_in
    assert refused(client, hub, None)
    assert refused(client, hub, "node-a", "wrong")
    assert refused(client, hub, "node-b", member.broker_password)
    assert refused(client, hub, "_hub", "")


def test_each_party_writes_and_reads_under_its_own_name_only(
    hub: RunningHub, client: Callable[..., Client]
) -> None:
    a, b, alice = hub.join("node-a"), hub.join("node-b"), hub.join("alice", "researcher")
    at_alice = client(hub, alice).subscribe(
        "fedjob/1/to/alice/#", "fedjob/1/presence/+", "fedjob/1/all/from/+"
    )
    at_b = client(hub, b)
    # A broker may answer a subscription as if it were granted; what counts is what arrives.
    at_b.subscribe(
        "#", "+/+/+/#", "fedjob/#", "fedjob/1/to/#", "fedjob/1/to/alice/#", "fedjob/1/to/+/+/from/node-b"
    )
    mallory = client(hub, b)
    for topic in (
        "fedjob/1/to/alice/s1/from/node-a",
        "fedjob/1/to/alice/s1/from/alice",
        "fedjob/1/to/alice/s1",
        "fedjob/1/to/alice/from/node-b",
        "fedjob/1/to/alice/a/b/from/node-b",
        "fedjob/1/all/from/node-a",
        "fedjob/1/presence/node-a",
        "fedjob/1/presence/node-b/x",
        "fedjob/2/to/alice/s1/from/node-b",
        "other/to/alice",
    ):
        mallory.publish(topic)
    honest = client(hub, a)
    for topic in ("fedjob/1/to/alice/s1/from/node-a", "fedjob/1/all/from/node-a"):
        honest.publish(topic)
    honest.publish("fedjob/1/presence/node-a", retain=True)
    arrived = {at_alice.got.get(timeout=10) for _ in range(3)}
    assert arrived == {
        "fedjob/1/to/alice/s1/from/node-a",
        "fedjob/1/all/from/node-a",
        "fedjob/1/presence/node-a",
    }
    time.sleep(0.5)
    assert at_alice.got.empty()
    seen_by_b = set()
    while not at_b.got.empty():
        seen_by_b.add(at_b.got.get())
    assert not [topic for topic in seen_by_b if topic.startswith("fedjob/1/to/")]


def test_a_last_will_is_held_to_the_same_rules(hub: RunningHub, client: Callable[..., Client]) -> None:
    a, b, alice = hub.join("node-a"), hub.join("node-b"), hub.join("alice", "researcher")
    watching = client(hub, alice).subscribe("fedjob/1/presence/+", "fedjob/1/to/alice/#")
    for will in ("fedjob/1/presence/node-a", "fedjob/1/to/alice/s1/from/node-a"):
        with suppress(queue.Empty):  # refused without a word
            spoofing = client(hub, b, will=will)
            if spoofing.let_in:
                spoofing.break_off()
    honest = client(hub, a, will="fedjob/1/presence/node-a")
    assert honest.let_in
    time.sleep(0.5)
    assert watching.got.empty()
    honest.break_off()
    assert watching.got.get(timeout=10) == "fedjob/1/presence/node-a"


def test_a_revoked_party_is_let_in_no_more(
    hub: RunningHub, client: Callable[..., Client], processes: Processes
) -> None:
    member = hub.join("node-a")
    assert client(hub, member).let_in
    processes.run("python", "-m", "fedjob.hub", "party", "revoke", "node-a", "--home", hub.home)
    wait_until(lambda: refused(client, hub, member), timeout_s=60, what="the broker to know of it")
    with pytest.raises(NotPermitted):
        fetch_parties(member)


def test_messages_go_through_fedjobs_own_transport(hub: RunningHub) -> None:
    alice, node = hub.join("alice", "researcher"), hub.join("node-a")
    got: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    sender = MqttTransport(hub.broker_url, Address("alice", "s1"), alice.party, alice.broker_password)
    receiver = MqttTransport(hub.broker_url, Address("node-a"), node.party, node.broker_password)
    try:
        receiver.open(lambda who, frame: got.put((who, frame)), timeout_s=30)
        sender.open(lambda who, frame: None, timeout_s=30)
        largest = secrets.token_bytes(64 << 10)
        sender.send(Address("node-a"), largest)
        assert got.get(timeout=10) == ("alice", largest)
        sender.send(None, b"everybody")
        assert got.get(timeout=10) == ("alice", b"everybody")
    finally:
        sender.close()
        receiver.close()


def test_minus_nine_of_the_hub_leaves_no_broker(hub: RunningHub, start: Start) -> None:
    member = hub.join("node-a")
    broker = hub.broker()
    assert broker is not None
    hub.process.kill()
    wait_until(lambda: not broker.is_running(), timeout_s=30, what="the broker to die with the hub")
    ports = (int(hub.url.rsplit(":", 1)[1]), int(hub.broker_url.rsplit(":", 1)[1]))
    again = start(hub.kind, ports=ports)  # in the same home, on the same ports
    assert (again.url, again.broker_url) == (hub.url, hub.broker_url)
    assert "node-a" in fetch_parties(member)


def test_a_killed_broker_is_started_again_and_health_and_metrics_show_it(
    hub: RunningHub, client: Callable[..., Client]
) -> None:
    member = hub.join("node-a")

    def health() -> Any:
        return requests.get(f"{hub.url}/healthz", timeout=10).json()

    assert health() == {"status": "ok", "checks": dict.fromkeys(("broker", "database", "disk"), "ok")}

    def back() -> bool:
        with suppress(OSError, queue.Empty):
            return client(hub, member).let_in
        return False

    for _ in range(2):
        broker = hub.broker()
        assert broker is not None
        broker.kill()
        broker.wait(10)
        wait_until(back, timeout_s=60, what="another broker that lets node-a in")
    wait_until(lambda: health()["status"] == "ok", timeout_s=30, what="a broker that answers")
    token = (hub.home / "metrics_token").read_text().strip()
    shown = requests.get(f"{hub.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10).text
    assert re.search(r"^fedjob_hub_broker_restarts_total [2-9]\.0$", shown, re.MULTILINE)
    assert (hub.home / "metrics_token").stat().st_mode & 0o777 == 0o600


def test_the_command_line_shows_and_invites(start: Start, processes: Processes, tmp_path: Path) -> None:
    def fedjob_hub(*words: str, expect: int = 0) -> str:
        done = processes.run("python", "-m", "fedjob.hub", *words, "--home", tmp_path / "hub", expect=expect)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    assert "run `fedjob hub start`" in fedjob_hub("status", expect=1)
    hub = start("amqtt", "--invited-only", "--public-broker", "mqtts://broker.example.org:8883")
    assert fetch_hub(hub.url).broker_url == "mqtts://broker.example.org:8883"
    with pytest.raises(NotPermitted, match="invitation"):
        hub.join("node-a")
    invitation = tmp_path / "a.invitation"
    assert "once" in fedjob_hub("invite", "node-a", "--out", str(invitation))
    assert invitation.stat().st_mode & 0o777 == 0o600
    keys = keys_of("node-a")
    member = enrol(None, "node-a", "node", keys, invitation)
    listed = json.loads(fedjob_hub("party", "list", "--json"))
    assert listed == [{"party": "node-a", "role": "node", "key": keys.signing, "revoked": False}]
    assert "node-a" in fedjob_hub("party", "list")
    with open_repository(hub.url, token=member.token) as repository:
        repository.put(b"12345", job="job_1")
    said = json.loads(fedjob_hub("status", "--json"))
    assert (said["running"], said["objects"], said["size_bytes"], said["url"]) == (True, 1, 5, hub.url)
    assert "nothing to remove" in fedjob_hub("gc")
    assert "revoked node-a" in fedjob_hub("party", "revoke", "node-a")
    assert "there is no party" in fedjob_hub("party", "revoke", "nobody", expect=1)
    assert "a party is named" in fedjob_hub("invite", "Node A", expect=1)
    hub.process.stop()
    assert re.search(r"^running +no$", fedjob_hub("status", expect=1), re.MULTILINE)


def test_what_can_not_work_is_refused_in_one_line(
    start: Start, processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    hub = start("amqtt")
    taken = hub.url.rsplit(":", 1)[1]
    taken_mqtt = hub.broker_url.rsplit(":", 1)[1]
    for options, said in (
        (["--home", str(hub.home)], "a hub runs in"),
        (["--port", taken], "can't listen on 127.0.0.1"),
        (["--mqtt-port", taken_mqtt], "can't listen on 127.0.0.1"),
        (["--host", "0.0.0.0"], "--insecure"),
        (["--host", "192.0.2.1", "--insecure"], "can't listen"),
        (["--broker", "http://x:1"], "mqtts://"),
        (["--broker", "mqtt://x"], "mqtts://"),
        (["--storage", "gs://bucket"], "expected a folder"),
        (["--storage", "s3://bucket/x?secret=1"], "found the option"),
        (["--tls-cert", "x.pem"], "together"),
        (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "expected a PEM certificate"),
        (["--home", "/proc/nowhere"], "can't use"),
        (["--port", "99999"], "99999"),
        (["--read-url", "htp:/x"], "expected"),
    ):
        home = ["--home", str(tmp_path / "other")] if "--home" not in options else []
        done = processes.run(
            *["python", "-m", "fedjob.hub", "start", *home, "--broker-kind", "amqtt"],
            *["--port", "0", "--mqtt-port", "0", *options],
            expect=None,
        )
        assert done.returncode in (1, 2), options
        assert said in done.stderr, options
        assert "Traceback" not in done.stderr, options
        if done.returncode == 1:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
            assert len(lines) == 1, done.stderr


def test_with_a_broker_of_somebody_else_it_says_what_to_add(start: Start) -> None:
    hub = start("auto", "--broker", "mqtt://127.0.0.1:18830")
    assert (hub.broker_url, hub.kind) == ("mqtt://127.0.0.1:18830", "external")
    assert hub.broker() is None
    said = hub.process.log()
    acl = Path(re.search(r"^acl_file (.+)$", said, re.MULTILINE)[1])  # type: ignore[index]
    passwords = Path(re.search(r"^password_file (.+)$", said, re.MULTILINE)[1])  # type: ignore[index]
    hub.join("node-a")
    assert "node-a:$7$101$" in passwords.read_text()
    assert "user node-a" in acl.read_text()


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a hub of this test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return cert_path, key_path


@pytest.mark.parametrize("kind", KINDS)
def test_tls_for_http_and_mqtt(
    start: Start, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)
    hub = start(kind, "--tls-cert", str(cert), "--tls-key", str(key))
    assert hub.url.startswith("https://")
    assert hub.broker_url.startswith("mqtts://")
    # The environment names another authority, and is not asked.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    with pytest.raises(RepositoryUnreachable, match="not trusted"):
        fetch_hub(hub.url)
    token = (hub.home / "metrics_token").read_text().strip()
    shown = requests.get(
        f"{hub.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10, verify=str(cert)
    ).text
    found = re.search(r"^fedjob_hub_certificate_expiry_timestamp_seconds (\S+)$", shown, re.MULTILINE)
    assert found is not None
    assert float(found[1]) > time.time()
    member, _ = enrol_home(tmp_path / "node-a", "node-a", "node", hub=hub.url, invite=None, tls_ca=cert)
    with open_repository(
        hub.url, token=member.token, verify=member.verify, credentials=member.credentials
    ) as repository:
        ref = repository.put(b"over TLS", job="job_1")
        assert repository.get_bytes(ref, limit_bytes=100) == b"over TLS"
    transport = transport_of(member, Address("node-a"), hub.broker_url)
    try:
        transport.open(lambda who, frame: None, timeout_s=30)
        assert transport.connected()
    finally:
        transport.close()
    assert hub.process.stop() == 0


def test_a_hub_logs_lines_of_json_to_a_file(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    (tmp_path / "hub" / "storage").mkdir(mode=0o755, parents=True)
    hub = start("amqtt", "--log-format", "json", "--log-file", str(log))
    assert hub.process.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("could be read by other users of this machine" in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert log.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_ends_it_without_a_traceback(start: Start) -> None:
    hub = start("amqtt")
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))):  # somebody is connected
        hub.process.send(signal.SIGINT)
        assert hub.process.wait(timeout_s=30) == 0
    assert "Traceback" not in hub.process.log()
