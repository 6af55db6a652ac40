"""Staged faults on the way to a hub and at it, each of which the doctor names with advice and who can act."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedjob.doctor import machine
from fedjob.doctor.findings import Finding
from fedjob.doctor.hub import examine_broker, examine_hub
from fedjob.doctor.it_page import page_for_it
from fedjob.doctor.way import examine_way
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.service import ServiceThread
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import Membership
from fedjob.node.cli.doctor import examine
from fedjob.node.config.home import NodeHome
from fedjob.node.joining import init_node
from tests.conftest import Mosquitto
from tests.e2e.test_one_port import TinyProxy
from tests.hubs import HubThread
from tests.processes import Processes

pytestmark = [
    pytest.mark.timeout(120),
    # paho leaves the socket of a WebSocket that was refused to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    with HubThread(tmp_path / "hub") as running:
        yield running


def named(findings: list[Finding], check: str) -> Finding:
    """Return the finding of a fault; it must say what to do and who can do it."""
    found = next(finding for finding in findings if finding.check == check)
    assert not found.ok, found
    assert found.advice
    assert found.who
    return found


def make_certificate(folder: Path, *, days: tuple[int, int] = (-1, 90), host: str = "127.0.0.1") -> TlsFiles:
    """Make a certificate of its own authority, valid between two days from now."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of this test")])
    now = datetime.datetime.now(datetime.UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([subject]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / "cert.pem", folder / "key.pem")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files.cert.write_bytes(made.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return files


def behind(hub: HubThread, tls: TlsFiles) -> ServiceThread:
    """Return the hub's application behind a certificate."""
    return ServiceThread(hub.application, tls=tls, limits=hub.limits)


def test_a_way_without_a_fault_is_good_at_every_step(hub: HubThread, tmp_path: Path) -> None:
    tls = make_certificate(tmp_path / "tls")
    with behind(hub, tls) as https:
        member = replace(hub.join("clinic"), hub_url=https.url, tls_ca=str(tls.cert))
        findings = examine_way(member)
        assert [finding.check for finding in findings] == ["proxy", "name", "port", "certificate"]
        assert all(finding.ok for finding in findings)
        assert "an authority of this test" in findings[-1].found
        assert all(finding.ok for finding in examine_hub(member))


@pytest.mark.parametrize(
    ("setting", "who"),
    [("socks5://127.0.0.1:1", "you"), ("http://127.0.0.1:1", "your IT")],
    ids=["malformed", "away"],
)
def test_a_proxy_that_is_none_or_away_is_named(hub: HubThread, setting: str, who: str) -> None:
    assert named(examine_way(replace(hub.join("clinic"), proxy=setting)), "proxy").who == who


@pytest.mark.parametrize(
    ("lines", "advice"),
    [(("BasicAuth it secret",), "give a login"), (("ConnectPort 1",), "let this machine through")],
    ids=["wants a login", "lets nobody through"],
)
def test_a_proxy_that_refuses_is_named(
    hub: HubThread,
    processes: Processes,
    tmp_path: Path,
    free_port: Callable[[], int],
    lines: tuple[str, ...],
    advice: str,
) -> None:
    proxy = TinyProxy(processes, tmp_path, free_port(), *lines)
    found = named(examine_way(replace(hub.join("clinic"), proxy=f"http://{proxy.address}")), "port")
    assert advice in found.advice
    assert found.who == "your IT"


@pytest.mark.parametrize(
    ("url", "check", "who"),
    [
        ("https://hub.invalid", "name", "your IT"),
        ("http://127.0.0.1:1", "port", "the hub's owner"),
    ],
)
def test_a_name_that_nobody_knows_and_a_closed_port_are_named(
    hub: HubThread, url: str, check: str, who: str
) -> None:
    findings = examine_way(replace(hub.join("clinic"), hub_url=url))
    assert named(findings, check).who == who
    assert findings[-1].check == check  # nothing after it could work


@pytest.mark.parametrize(
    ("days", "host", "trusts", "words", "who"),
    [
        ((-9, -2), "127.0.0.1", True, "expired", "the hub's owner"),
        ((2, 9), "127.0.0.1", True, "not valid yet", "you"),
        ((-1, 9), "hub.example.org", True, "is for hub.example.org", "you"),
        ((-1, 9), "127.0.0.1", False, "is not trusted", "you"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named(
    hub: HubThread, tmp_path: Path, days: tuple[int, int], host: str, trusts: bool, words: str, who: str
) -> None:
    tls, other = (
        make_certificate(tmp_path / "tls", days=days, host=host),
        make_certificate(tmp_path / "other"),
    )
    with behind(hub, tls) as https:
        authority = tls.cert if trusts else other.cert
        member = replace(hub.join("clinic"), hub_url=https.url, tls_ca=str(authority))
        found = named(examine_way(member), "certificate")
    assert words in found.found
    assert found.who == who


def test_a_certificate_that_ends_soon_is_told_in_time(hub: HubThread, tmp_path: Path) -> None:
    tls = make_certificate(tmp_path / "tls", days=(-1, 9))
    with behind(hub, tls) as https:
        found = examine_way(replace(hub.join("clinic"), hub_url=https.url, tls_ca=str(tls.cert)))[-1]
    assert found.ok
    assert (found.advice, found.who) == ("renew it soon", "the hub's owner")


def test_a_port_without_tls_and_an_authority_that_is_gone_are_named(hub: HubThread, tmp_path: Path) -> None:
    member = replace(hub.join("clinic"), hub_url=hub.url.replace("http://", "https://"))
    assert "does not speak TLS" in named(examine_way(member), "certificate").found
    assert (
        "can't be read"
        in named(examine_way(replace(member, tls_ca=str(tmp_path / "no.pem"))), "certificate").found
    )


class LateHub(http.server.BaseHTTPRequestHandler):
    """A hub whose clock is an hour ahead."""

    def do_GET(self) -> None:
        broker = {"url": "mqtt://127.0.0.1:1", "kind": "external"}
        facts = {
            "federation": "f",
            "version": version("fedjob"),
            "time": time.time() + 3600,
            "broker": broker,
            "read_urls": [],
        }
        body = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_clock_that_is_off_is_named(hub: HubThread) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LateHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        member = replace(hub.join("clinic"), hub_url=f"http://127.0.0.1:{server.server_port}")
        found = named(examine_hub(member), "clock")
        server.shutdown()
    assert "3600 s slow" in found.found
    assert found.who == "your IT"


def test_a_revoked_party_and_a_full_hub_are_named(hub: HubThread, tmp_path: Path) -> None:
    member = hub.join("clinic")
    hub.parties.revoke("clinic")
    found = named(examine_hub(member), "token")
    assert "fedjob node init --id clinic --invite FILE" in found.advice
    with HubThread(tmp_path / "full", limits=HubLimits(reserve_bytes=1 << 62)) as full:
        assert "free space" in named(examine_hub(full.join("clinic")), "repository").advice


def test_a_broker_that_is_away_or_refuses_is_named(hub: HubThread, mosquitto: Mosquitto) -> None:
    member = replace(hub.join("clinic"), broker_url="mqtt://127.0.0.1:1")
    away = named(examine_broker(member), "broker")
    assert "127.0.0.1:1" in away.found
    refused = replace(member, broker_url=f"mqtt://{mosquitto.host}:{mosquitto.port}", broker_password="wrong")
    findings = examine_broker(refused)
    if findings[0].ok:  # a broker that lets in everybody: then its rights are what is wrong
        assert "envs/mosquitto" in named(findings, "broker rights").advice
    websocket = next(finding for finding in findings if finding.check == "websocket")
    assert "envs/nginx" in websocket.advice  # this hub carries no messages


def test_a_torch_that_can_not_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ImportError('libcudart.so.12: cannot open shared object file')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = machine.torch()
    assert "libcudart.so.12" in found.found
    assert not found.ok
    assert found.who == "you"


def test_a_home_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "no folder" in named([machine.home(tmp_path / "file" / "home")], "home").found


@pytest.fixture
def clinic(hub: HubThread, tmp_path: Path) -> NodeHome:
    home = NodeHome(tmp_path / "clinic")
    init_node(home, "clinic", hub=hub.url, invite=None)
    return home


def test_a_node_without_a_federation_is_told_what_to_do(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "clinic")
    home.create()
    assert "fedjob node init" in named(examine(home), "membership").advice


def test_settings_that_can_not_be_read_are_named(clinic: NodeHome) -> None:
    (clinic.root / "config.toml").write_text("workers = 'many'\n")
    assert "workers" in named(examine(clinic), "settings").found


def test_the_page_for_it_names_every_way_and_what_leaves(clinic: NodeHome, hub: HubThread) -> None:
    member = Membership(
        "https://hub.example.org",
        "f",
        "clinic",
        "node",
        secrets.token_hex(32),
        "mqtts://hub.example.org:8883",
        "",
    )
    page = page_for_it(replace(member, proxy="http://it:secret@proxy.example.org:3128"), "2026-11-29")
    assert "| hub.example.org | 443 | HTTPS |" in page
    assert "| hub.example.org | 443 | WebSocket with MQTT, over TLS |" in page
    assert "| hub.example.org | 8883 | MQTT over TLS |" in page
    assert "http://proxy.example.org:3128, by HTTP CONNECT" in page
    assert "no incoming port" in page
    assert "never files of the data" in page
    assert "secret" not in page


def test_a_researchers_home_is_examined_as_well(hub: HubThread, tmp_path: Path) -> None:
    member, _ = enrol_home(tmp_path / "lab", "lab", "researcher", hub=hub.url, invite=None)
    assert all(finding.ok for finding in examine_way(member))
