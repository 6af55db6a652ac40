"""The other three schemes of the MQTT transport, against a real Mosquitto."""

from __future__ import annotations

import datetime
import getpass
import ipaddress
import queue
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedjob.common.errors import BrokerUnreachable
from fedjob.common.types import Address
from fedjob.messaging.transport.mqtt import MqttTransport
from tests.faults.line import FaultyLine, LineProperties
from tests.faults.script import Fault, Script
from tests.faults.serving import LoopThread, Stream
from tests.parts import program
from tests.processes import Processes, wait_until


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_path, key_path


@pytest.fixture
def broker(
    processes: Processes, free_port: Callable[[], int], tmp_path: Path, certificate: tuple[Path, Path]
) -> dict[str, str]:
    """Start a Mosquitto that listens in all ways; return a URL for each scheme."""
    urls = {scheme: f"{scheme}://127.0.0.1:{free_port()}" for scheme in ("mqtt", "mqtts", "ws", "wss")}
    lines = ["allow_anonymous true", f"user {getpass.getuser()}"]
    for scheme, url in urls.items():
        lines.append(f"listener {url.rpartition(':')[2]} 127.0.0.1")
        if scheme in ("ws", "wss"):
            lines.append("protocol websockets")
        if scheme in ("mqtts", "wss"):
            lines += [f"certfile {certificate[0]}", f"keyfile {certificate[1]}"]
    config = tmp_path / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n")
    processes.start(program("mosquitto"), "-c", config, name="mosquitto")
    for url in urls.values():
        wait_until(lambda url=url: answers(url), timeout_s=30, what=url)  # type: ignore[misc]
    return urls


def answers(url: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


@pytest.mark.parametrize("scheme", ["mqtts", "ws", "wss"])
def test_a_frame_travels_over(scheme: str, broker: dict[str, str], certificate: tuple[Path, Path]) -> None:
    frames: queue.Queue[tuple[str, bytes]] = queue.Queue()
    node = MqttTransport(broker[scheme], Address("site"), tls_ca=certificate[0])
    alice = MqttTransport(broker["mqtt"], Address("alice", "s1"))
    try:
        node.open(lambda *frame: frames.put(frame), timeout_s=30)
        alice.open(lambda *frame: None, timeout_s=30)
        alice.send(Address("site"), b"\x00" * 60_000)
        assert frames.get(timeout=30) == ("alice", b"\x00" * 60_000)
    finally:
        node.close()
        alice.close()


SPOILED_HANDSHAKES = (
    b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept:x\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: \xff\xfe\r\n\r\n",
)


class _SpoiledHandshakes(FaultyLine):
    """A line that answers the next requests for a WebSocket itself, wrongly."""

    left: tuple[bytes, ...] = ()

    async def serve(self, client: Stream) -> None:
        if not self.left:
            await super().serve(client)
            return
        answer, self.left = self.left[0], self.left[1:]
        await client.reader.readuntil(b"\r\n\r\n")
        await client.send(answer)
        await client.reader.read()


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_spoiled_handshakes_of_websocket_do_not_end_the_way_to_the_broker(broker: dict[str, str]) -> None:
    connections: queue.Queue[bool] = queue.Queue()
    with LoopThread() as loop:
        line = _SpoiledHandshakes(loop, int(broker["ws"].rpartition(":")[2]))
        node = MqttTransport(f"ws://127.0.0.1:{line.port}", Address("site"))
        try:
            node.open(lambda *frame: None, timeout_s=30, on_connection=connections.put)
            assert connections.get(timeout=5)
            line.left = SPOILED_HANDSHAKES
            line.become(LineProperties(), Script((Fault(kind="reset", num=1, most=1),)))
            node.send(Address("site"), b"x")  # by which the connection breaks
            assert not connections.get(timeout=30)
            assert connections.get(timeout=30)
            assert line.left == ()
        finally:
            node.close()


# paho leaves the socket of a failed handshake to the garbage collector, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_whose_certificate_nobody_vouches_for_is_refused(broker: dict[str, str]) -> None:
    failed = re.compile("certificate.verify.failed", re.IGNORECASE)
    for timeout_s in (1, 30):  # a slow machine does not get that far in a second
        with pytest.raises(BrokerUnreachable) as refused:
            MqttTransport(broker["mqtts"], Address("site")).open(lambda *frame: None, timeout_s=timeout_s)
        if failed.search(str(refused.value)):
            break
    assert failed.search(str(refused.value))
