"""A hub that is reached through one port: its own, nginx before it, and a proxy on the way to it."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from fedjob.common.errors import BrokerUnreachable, NotPermitted, RepositoryUnreachable
from fedjob.common.types import Address
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.membership import Membership, fetch_hub
from fedjob.identity.party_list import fetch_parties
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.repository import open_repository
from tests.data import make_points
from tests.e2e.test_hub import certificate
from tests.parts import program
from tests.processes import Processes, Running, wait_until

pytestmark = pytest.mark.timeout(240)

NGINX_CONF = Path(__file__).resolve().parents[2] / "envs" / "nginx" / "fedjob.conf"


@dataclass(frozen=True)
class OnePortHub:
    """A hub with TLS whose broker has no port of its own."""

    url: str
    broker_url: str
    ca: Path
    process: Running

    def join(self, party: str, proxy: str = "") -> Membership:
        home = self.ca.parent / f"home of {party}"
        return enrol_home(home, party, "node", hub=self.url, invite=None, tls_ca=self.ca, proxy=proxy)[0]


def one_port_hub(folder: Path, kind: str) -> Iterator[OnePortHub]:
    cert, key = certificate(folder)
    with Processes(folder) as processes:
        running = processes.start(
            "fedjob", "hub", "start", "--home", folder / "home", "--port", "0", "--broker-kind", kind,
            "--tls-cert", cert, "--tls-key", key, name="hub",
        )  # fmt: skip
        found = running.wait_for(r"hub ready: (https://\S+) (wss://\S+)")
        yield OnePortHub(found[1], found[2], cert, running)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnePortHub]:
    program("mosquitto")
    yield from one_port_hub(tmp_path_factory.mktemp("hub"), "mosquitto")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[OnePortHub]:
    yield from one_port_hub(tmp_path, "amqtt")


def carries_a_frame(url: str, member: Membership, *, proxy: str = "") -> bool:
    """Whether what a party sends to itself arrives."""
    arrived = threading.Event()
    address = Address(member.party, "s1")
    transport = MqttTransport(
        url,
        address,
        member.party,
        member.broker_password,
        tls_ca=member.tls_ca,
        proxy=proxy,
        credentials=member.credentials,
    )
    transport.open(lambda sender, frame: arrived.set() if frame == b"x" * 60_000 else None, timeout_s=20)
    try:
        assert transport.send(address, b"x" * 60_000)
        return arrived.wait(20)
    finally:
        transport.close()


def carries_an_object(member: Membership, *, proxy: str = "") -> bool:
    data = secrets.token_bytes(3_000_000)
    with open_repository(
        member.hub_url,
        token=member.token,
        verify=member.verify,
        proxy=proxy,
        credentials=member.credentials,
    ) as repository:
        return repository.get_bytes(repository.put(data, job="job_1"), limit_bytes=4_000_000) == data


@pytest.mark.parametrize("broker", ["hub", "embedded"])
def test_everything_goes_through_the_one_port_of_a_hub(broker: str, request: pytest.FixtureRequest) -> None:
    hub: OnePortHub = request.getfixturevalue(broker)
    assert hub.broker_url == f"{hub.url.replace('https', 'wss')}/mqtt"
    assert fetch_hub(hub.url, verify=hub.ca).broker_url == hub.broker_url
    member = hub.join("node-a")
    assert member.broker_url == hub.broker_url
    assert carries_a_frame(hub.broker_url, member)
    assert carries_an_object(member)


def test_a_wrong_password_is_refused_by_the_broker_behind_the_port(hub: OnePortHub) -> None:
    stranger = MqttTransport(hub.broker_url, Address("node-b"), "node-b", "wrong", tls_ca=hub.ca)
    with pytest.raises(BrokerUnreachable, match="refuses node-b"):
        stranger.open(lambda *frame: None, timeout_s=5)


def test_nothing_else_of_the_hub_listens_beyond_loopback(hub: OnePortHub) -> None:
    tree = [psutil.Process(hub.process.pid), *psutil.Process(hub.process.pid).children(recursive=True)]
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for each in tree
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    others = {address for address in listening if str(address[1]) != hub.url.rpartition(":")[2]}
    assert all(ip in ("127.0.0.1", "::1") for ip, _ in others)


def test_a_party_behind_a_firewall_finds_the_broker_through_the_hubs_port(
    hub: OnePortHub, free_port: Callable[[], int]
) -> None:
    member = hub.join("node-c")
    closed = f"mqtts://127.0.0.1:{free_port()}"
    transport = MqttTransport(
        closed,
        Address("node-c"),
        "node-c",
        member.broker_password,
        other_url=member.broker_at_hub,
        tls_ca=hub.ca,
        credentials=member.credentials,
    )
    transport.open(lambda *frame: None, timeout_s=20)
    assert transport.url == hub.broker_url
    transport.close()
    nowhere = MqttTransport(
        closed, Address("node-c"), other_url=f"wss://127.0.0.1:{free_port()}/mqtt", tls_ca=hub.ca
    )
    with pytest.raises(BrokerUnreachable, match=r"mqtts://127.0.0.1:\d+.*; .*wss://127.0.0.1:\d+/mqtt"):
        nowhere.open(lambda *frame: None, timeout_s=2)


def test_the_nginx_configuration_that_is_shipped_carries_everything(
    processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    nginx, port = program("nginx"), free_port()
    ca, key = certificate(tmp_path)
    behind = processes.start(
        "fedjob", "hub", "start", "--invited-only", "--tls-in-front", "--home", "hub", "--port", "0",
        cwd=tmp_path, name="hub",
    )  # fmt: skip
    inner = behind.wait_for(r"hub ready: (http://\S+) (ws://\S+)")[1]
    shipped = NGINX_CONF.read_text(encoding="utf-8")
    for was, now in (
        (r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (r"/etc/letsencrypt/\S+fullchain.pem", str(ca)),
        (r"/etc/letsencrypt/\S+privkey.pem", str(key)),
        (r"server 127.0.0.1:8844", f"server 127.0.0.1:{inner.rpartition(':')[2]}"),
    ):
        shipped, count = re.subn(was, now, shipped)
        assert count
    places = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {places}\n{shipped}\n}}\n"
    )
    processes.start(nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf", name="nginx")
    wait_until(lambda: listens(port), timeout_s=20, what="nginx to listen")
    url = f"https://127.0.0.1:{port}"
    invited = processes.run("fedjob", "hub", "invite", "ward", "--home", "hub", "--url", url, cwd=tmp_path)
    assert "ward.invitation" in invited.stdout
    invitation = tmp_path / "ward.invitation"
    member, _ = enrol_home(tmp_path / "ward", "ward", "node", hub=None, invite=invitation, tls_ca=ca)
    assert member.hub_url == url
    assert member.broker_url == member.broker_at_hub == f"wss://127.0.0.1:{port}/mqtt"
    assert carries_an_object(member)
    assert carries_a_frame(member.broker_at_hub, member)
    token_alone = replace(member, home="")
    for address in (url, inner):
        with pytest.raises(NotPermitted, match="a token alone opens nothing"):
            fetch_parties(replace(token_alone, hub_url=address))
    status = processes.run("fedjob", "hub", "status", "--home", "hub", cwd=tmp_path).stdout
    assert "a signature of each request: a web server before the hub ends TLS" in status
    thief = MqttTransport(
        member.broker_at_hub, Address("ward", "s2"), "ward", member.broker_password, tls_ca=ca
    )
    with pytest.raises(BrokerUnreachable, match="refuses ward"):
        thief.open(lambda *frame: None, timeout_s=5)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TinyProxy:
    """A forward proxy, and what it let through."""

    def __init__(self, processes: Processes, folder: Path, port: int, *lines: str) -> None:
        self.log = folder / "tinyproxy.log"
        (folder / "tinyproxy.conf").write_text(
            "\n".join(
                [
                    f"Port {port}",
                    "Listen 127.0.0.1",
                    "MaxClients 100",
                    "Timeout 600",
                    f'LogFile "{self.log}"',
                    *lines,
                ]
            )
        )
        processes.start(program("tinyproxy"), "-d", "-c", folder / "tinyproxy.conf", name="tinyproxy")
        wait_until(lambda: listens(port), timeout_s=20, what="the proxy to listen")
        self.address = f"127.0.0.1:{port}"

    def tunnels_to(self, url: str) -> int:
        """Return how many tunnels it opened to a server."""
        return self.log.read_text().count(f"CONNECT {url.partition('://')[2].partition('/')[0]} ")


def test_a_proxy_with_a_login_carries_bytes_and_messages(
    hub: OnePortHub, processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    proxy = TinyProxy(processes, tmp_path, free_port(), "BasicAuth it secret")
    with pytest.raises(RepositoryUnreachable, match=r"proxy http://127\.0\.0\.1:\d+ .* wants a login"):
        hub.join("node-d", f"http://{proxy.address}")
    with pytest.raises(RepositoryUnreachable, match="refuses the login of 'it'"):
        hub.join("node-d", f"http://it:wrong@{proxy.address}")
    login = f"http://it:s%65cret@{proxy.address}"
    member = hub.join("node-d", login)
    assert carries_an_object(member, proxy=login)
    before = proxy.tunnels_to(hub.url)
    assert carries_a_frame(hub.broker_url, member, proxy=login)
    assert proxy.tunnels_to(hub.url) > before
    assert "s%65cret" not in repr(member)


def test_a_proxy_that_lets_nobody_through_is_named(
    hub: OnePortHub, processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    proxy = TinyProxy(processes, tmp_path, free_port(), "ConnectPort 1")
    with pytest.raises(
        RepositoryUnreachable, match=r"does not let this machine through .*ask whoever runs the proxy"
    ):
        hub.join("node-e", f"http://{proxy.address}")
    transport = MqttTransport(
        hub.broker_url, Address("node-e"), tls_ca=hub.ca, proxy=f"http://{proxy.address}"
    )
    with pytest.raises(BrokerUnreachable, match="through the proxy"):
        transport.open(lambda *frame: None, timeout_s=2)


def test_node_and_researcher_meet_through_a_proxy_that_the_environment_and_the_home_name(
    hub: OnePortHub, processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    proxy = TinyProxy(processes, tmp_path, free_port())
    environment = {"HTTPS_PROXY": f"http://{proxy.address}"}
    join = ("--hub", hub.url, "--tls-ca", hub.ca)
    processes.run("fedjob", "node", "init", "--home", tmp_path / "node", "--id", "va", *join, env=environment)
    points = make_points(tmp_path / "points.npz", 30, 1)
    processes.run("fedjob", "node", "data", "add", "points", points, "--home", tmp_path / "node")
    processes.run(
        "fedjob", "node", "config", "set", "proxy", f"http://{proxy.address}", "--home", tmp_path / "node"
    )
    processes.start("fedjob", "node", "start", "--home", tmp_path / "node", ready="node ready", name="node")
    processes.run(
        "fedjob",
        "init",
        "--home",
        tmp_path / "lab",
        "--id",
        "lab",
        *join,
        "--proxy",
        f"http://{proxy.address}",
    )
    checks = processes.run("fedjob", "doctor", "--home", tmp_path / "lab").stdout
    assert "answer: va" in checks
    assert "wss://127.0.0.1" in checks
    assert proxy.tunnels_to(hub.url) >= 4
