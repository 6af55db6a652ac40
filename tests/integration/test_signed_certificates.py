"""A hub with TLS whose roster is signed: how a coordinator comes to it, the certificates in the roster, and what a revocation ends."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.errors import ConfigError, NotPermitted
from fedjob.common.types import Address
from fedjob.hub.config.tls import AUTHORITY_NAME, TlsFiles
from fedjob.identity.client_certificate import certificate_of_home, describe
from fedjob.identity.enrolment import enrol_home, ensure_certificate
from fedjob.identity.membership import Invitation, Membership, load_membership
from fedjob.identity.party_list import fetch_parties
from fedjob.identity.statements.federation_keys import FederationKeys, fingerprint_of
from fedjob.messaging.transport.mqtt import _break_off, transport_of
from fedjob.repository import open_repository
from tests.authorities import Authority
from tests.parts import program
from tests.processes import wait_until
from tests.tls_hubs import TlsHub

pytestmark = pytest.mark.timeout(180)

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"
LARGE = 40 << 20
WITHIN_S = 10.0
"""In which what is revoked has to end here; a minute is what is promised."""


def types(*words: str | Path, expect: int = 0) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


class Coordinator:
    """Somebody with the federation's key, who is no party of the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (words := folder / "passphrase").write_text("four words of a poem\n")
        self._words = ("--passphrase-file", words)
        types("federation", "create", "heart", "--folder", folder, "--contact", "Dr. Kim", *self._words)
        self.keys = FederationKeys.load(folder / "heart.federation")

    def does(self, hub: TlsHub, verb: str, *words: str, expect: int = 0) -> str:
        way = ("--key", self.folder / "heart.key", "--hub", hub.url, "--tls-ca", hub.ca)
        return types("federation", verb, *words, *way, *self._words, "--yes", expect=expect)


@pytest.fixture(scope="module", params=["mosquitto", "amqtt"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "mosquitto":
        program("mosquitto")
    return str(request.param)


@pytest.fixture(scope="module")
def coordinator(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return Coordinator(tmp_path_factory.mktemp(f"offline-{kind}") / "keys")


@pytest.fixture(scope="module")
def hub(kind: str, coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsHub]:
    with TlsHub(
        tmp_path_factory.mktemp(kind), broker_kind=kind, federation=coordinator.keys, mqtt_port=None
    ) as made:
        yield made


def roster_of(hub: TlsHub, member: Membership) -> dict[str, dict[str, object]]:
    types("federation", "roster", "verify", "--home", member.home)
    shown = json.loads(types("federation", "roster", "show", "--home", member.home, "--json"))
    return {party["party"]: party for party in shown["parties"]}


def join(hub: TlsHub, party: str, role: str = "node") -> Membership:
    """Join by an invitation as the hub's owner writes it."""
    file = hub.folder / f"{party}.invitation"
    types(
        "hub",
        "invite",
        party,
        "--role",
        role,
        "--home",
        hub.folder / "hub",
        "--out",
        file,
        "--tls-ca",
        hub.ca,
    )
    return enrol_home(hub.folder / party, party, role, hub=None, invite=file)[0]


def key_of_certificate(member: Membership) -> str:
    return describe(certificate_of_home(Path(member.home))).key_hash


def test_a_coordinator_without_a_certificate_signs_a_roster_that_names_those_of_the_parties(
    hub: TlsHub, coordinator: Coordinator
) -> None:
    one = join(hub, "one")
    assert "new      node one, key " in coordinator.does(hub, "sign")
    found = roster_of(hub, one)
    assert found["one"]["certificate"] == fingerprint_of(key_of_certificate(one))
    # who has a party's token and key, but not the key of its certificate, gets no certificate for another
    (Path(one.home) / "keys" / "tls.key").unlink()
    (Path(one.home) / "keys" / "tls.pem").unlink()
    with pytest.raises(NotPermitted, match=r"names the key of the certificate of one.*Dr\. Kim to sign"):
        ensure_certificate(one)
    # who joins anew may, and the coordinator sees it
    (Path(one.home) / "membership.mpk").unlink()
    again = join(hub, "one")
    assert "new key of the certificate of node one: " in coordinator.does(hub, "sign")
    assert roster_of(hub, again)["one"]["certificate"] == fingerprint_of(key_of_certificate(again))


def test_a_wrong_key_and_an_old_proof_bring_no_roster(
    hub: TlsHub, coordinator: Coordinator, tmp_path: Path
) -> None:
    other = Coordinator(tmp_path / "keys")
    done = CliRunner().invoke(
        cli,
        [
            str(word)
            for word in (
                *("federation", "sign", "--key", other.folder / "heart.key", "--hub", hub.url),
                *("--tls-ca", hub.ca, "--passphrase-file", other.folder / "passphrase", "--yes"),
            )
        ],
    )
    assert "proof of one of the federation's keys" in str(done.exception or done.output)


class Slow:
    """A transfer that lasts as long as it is let."""

    def __init__(self, hub: TlsHub, member: Membership, head: str) -> None:
        where = urlsplit(hub.url)
        context = ssl.create_default_context(cafile=str(hub.ca))
        context.load_cert_chain(*certificate_of_home(Path(member.home)).files)
        bare = socket.create_connection((where.hostname, where.port), timeout=20)
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket = context.wrap_socket(bare, server_hostname=where.hostname)
        lines = (
            f"{head} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {member.token}\r\nX-Fedjob-Job: {JOB}\r\n"
        )
        self.socket.sendall(lines.encode())

    def ends_within(self, work: Callable[[ssl.SSLSocket], None], limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        with self.socket as transfer:
            while time.monotonic() < deadline:
                try:
                    work(transfer)
                except (OSError, EOFError):
                    return True
                time.sleep(0.2)
        return False


def _uploads(transfer: ssl.SSLSocket) -> None:
    transfer.sendall(b"x" * 20_000)


def _received(transfer: ssl.SSLSocket) -> int:
    """Read all that still comes; what was on its way is not the hub's to take back."""
    num_bytes = 0
    with transfer, suppress(OSError):
        while part := transfer.recv(1 << 16):
            num_bytes += len(part)
    return num_bytes


def test_transfers_and_sessions_of_a_party_end_when_the_roster_revokes_it_and_others_go_on(
    hub: TlsHub, coordinator: Coordinator
) -> None:
    two, three = join(hub, "two"), join(hub, "three")
    coordinator.does(hub, "sign")
    (path := hub.folder / "large").write_bytes(os.urandom(LARGE))
    name = sha256(path.read_bytes()).hexdigest()
    repository = open_repository(hub.url, token=two.token, verify=two.verify, credentials=two.credentials)
    repository.put(path, job=JOB)
    repository.close()
    mqtt = {}
    for member in (two, three):
        mqtt[member.party] = transport_of(member, Address(member.party))
        mqtt[member.party].open(lambda *frame: None, timeout_s=20)
    upload = Slow(hub, two, f"PUT /v1/objects/{sha256(b'x').hexdigest()}")
    upload.socket.sendall(b"Content-Length: 1000000000\r\n\r\n")
    download = Slow(hub, two, f"GET /v1/objects/{name}")
    download.socket.sendall(b"\r\n")
    assert download.socket.recv(12) == b"HTTP/1.1 200"
    coordinator.does(hub, "revoke", "two")
    try:
        assert upload.ends_within(_uploads, WITHIN_S), "an upload goes on"
        assert _received(download.socket) < LARGE // 2, "a download goes on"
        wait_until(lambda: not mqtt["two"].connected(), timeout_s=WITHIN_S, what="the end of the session")
        assert mqtt["three"].connected()
        assert roster_of(hub, three)["two"]["revoked"] is True
        with pytest.raises(NotPermitted, match=r"two was revoked: ask Dr\. Kim, and the hub's owner for"):
            fetch_parties(two)
    finally:
        for each in mqtt.values():
            each.close()


def test_a_session_that_broke_off_comes_back(hub: TlsHub) -> None:
    member = join(hub, "four")
    transport = transport_of(member, Address("four"))
    news: list[bool] = []
    transport.open(lambda *frame: None, timeout_s=20, on_connection=news.append)
    try:
        for number in (1, 2):
            assert transport._client is not None
            _break_off(transport._client)
            wait_until(lambda number=number: news.count(False) == number, timeout_s=20, what="the break")
            wait_until(transport.connected, timeout_s=20, what="it to come back")
    finally:
        transport.close()


def test_an_invitation_carries_the_authority_of_the_hubs_certificate_by_itself(tmp_path: Path) -> None:
    with TlsHub(tmp_path, broker_kind="amqtt") as hub:
        pass  # it was given no authority, so that its invitations name none
    tls = hub.settings.tls
    assert tls is not None

    def carried(url: str = hub.url) -> str:
        file = tmp_path / "a.invitation"
        types("hub", "invite", "a", "--home", tmp_path / "hub", "--url", url, "--out", file)
        return Invitation.load(file).authority

    assert carried() == ""
    with pytest.raises(ConfigError, match="is not signed by an authority in"):
        tls.keep_authority(tmp_path / "hub", Authority(tmp_path / "other").cert)
    with TlsHub(tmp_path / "next", broker_kind="amqtt", tls=tls, tls_ca=hub.ca):
        assert (tmp_path / "next" / "hub" / AUTHORITY_NAME).read_bytes() == hub.ca.read_bytes()
    tls.keep_authority(tmp_path / "hub", hub.ca)
    assert tls.keep_authority(tmp_path / "hub", None) == "", "it stays, though it is given once only"
    assert carried() == hub.ca.read_text()
    assert carried("http://hub.example.org:80") == "", "a hub without TLS has none"
    pair = Authority(tmp_path / "new").server("hub")
    renewed = TlsFiles(pair.cert, pair.key)
    assert "from another authority than before" in renewed.keep_authority(tmp_path / "hub", None)
    assert carried() == ""


def test_a_restored_hub_and_a_restored_home_go_on_as_they_were(tmp_path: Path) -> None:
    """Keys of all kinds, certificates, authorities, rosters and limits are in the backups."""
    coordinator, kind = Coordinator(tmp_path / "offline"), "amqtt"
    with TlsHub(tmp_path, broker_kind=kind, federation=coordinator.keys, mqtt_port=None) as hub:
        one = join(hub, "one")
        tls = hub.settings.tls
        assert tls is not None
        tls.keep_authority(tmp_path / "hub", hub.ca)
        coordinator.does(hub, "sign")
        shown, home = roster_of(hub, one), Path(one.home)
        (home / "config.toml").write_text("approvers = 2\n")
        types("hub", "backup", tmp_path / "hub.backup", "--home", tmp_path / "hub")
        types("node", "backup", tmp_path / "one.backup", "--home", home)
        authority = (tmp_path / "hub" / "client-authority" / "certificate.pem").read_bytes()
        metrics = (tmp_path / "hub" / "metrics_token").read_bytes()
    again = tmp_path / "again"
    types("hub", "restore", tmp_path / "hub.backup", "--home", again / "hub")
    types("node", "restore", tmp_path / "one.backup", "--home", tmp_path / "restored")
    before, after = (
        {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
        for where in (home, tmp_path / "restored")
    )
    assert after == before, "files of the home are not in its backup"
    with TlsHub(
        again, broker_kind=kind, tls=tls, mqtt_port=None, port=int(urlsplit(hub.url).port or 0)
    ) as hub:
        restored = load_membership(tmp_path / "restored")
        assert roster_of(hub, restored) == shown
        assert restored.credentials is not None
        assert not restored.credentials.renew(), "the certificate is good still"
        transport = transport_of(restored, Address("one"))
        transport.open(lambda *frame: None, timeout_s=20)
        transport.close()
        assert (again / "hub" / "client-authority" / "certificate.pem").read_bytes() == authority
        assert (again / "hub" / "metrics_token").read_bytes() == metrics
        assert (again / "hub" / AUTHORITY_NAME).exists()
