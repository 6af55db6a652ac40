"""Whom a hub with TLS lets in, over HTTP and at the broker: parties with their certificates, and nobody else."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedjob._version import __version__
from fedjob.common.errors import (
    BrokerUnreachable,
    ConfigError,
    FedjobError,
    NotPermitted,
    RepositoryUnreachable,
)
from fedjob.common.network.credentials import PROOF_HEADER
from fedjob.common.types import Address
from fedjob.doctor.hub import examine_certificate, examine_hub
from fedjob.hub.broker.local_socket import NAME
from fedjob.hub.broker.mosquitto import settings
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.service import ServiceThread
from fedjob.identity.client_certificate import certificate_of_home, own_certificate
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.keys import Identity
from fedjob.identity.membership import (
    BROKER_PATH,
    Invitation,
    Membership,
    broker_password,
    fetch_hub,
    hub_of,
    load_membership,
)
from fedjob.identity.party_list import fetch_parties
from fedjob.identity.request_signature import prove
from fedjob.messaging.transport.mqtt import MqttTransport, transport_of
from fedjob.repository import open_repository
from tests.authorities import DAY, Authority, Pair
from tests.parts import program
from tests.processes import Processes, wait_until
from tests.tls_hubs import TlsHub

pytestmark = [
    pytest.mark.timeout(180),
    # paho leaves the socket of a failed handshake to the garbage collector, which warns
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

YEAR = timedelta(days=365)
SHA = "0" * 64


@dataclass
class World:
    """A hub, its two parties a and b, and everything that somebody could have got hold of."""

    hub: TlsHub
    a: Membership
    b: Membership
    certificates: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def federation(self) -> str:
        return self.a.federation


def files(pair: Pair) -> tuple[str, str]:
    return str(pair.cert), str(pair.key)


@pytest.fixture(scope="module", params=["mosquitto", "amqtt"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if request.param == "mosquitto":
        program("mosquitto")
    folder = tmp_path_factory.mktemp(request.param)
    with TlsHub(folder, broker_kind=request.param) as hub:
        made = World(hub, hub.join("a"), hub.join("b"))
        gone = hub.join("gone")
        hub.parties().revoke("gone")
        again = hub.join("again")
        shutil.copytree(Path(again.home), folder / "again-before")
        again = hub.join("again", home=folder / "again-anew")
        own, foreign = (
            Authority.of_hub(folder / "hub", folder / "own"),
            Authority(folder / "foreign", "parties of another federation"),
        )
        made.tokens = {"a": made.a.token, "b": made.b.token, "gone": gone.token, "again": again.token}
        made.tokens |= {"nobody": secrets.token_hex(32), "none": ""}
        made.certificates = {
            "none": None,
            **{name: certificate_of_home(folder / name).files for name in ("a", "b", "gone")},
            "again": certificate_of_home(folder / "again-anew").files,
            "again before": certificate_of_home(folder / "again-before").files,
            "a of another key": files(own.client("a")),
            "a expired": files(own.client("a", valid=(-2 * DAY, -DAY), file="expired")),
            "a too early": files(own.client("a", valid=(DAY, 2 * DAY), file="early")),
            "a and b": files(own.client("a", uri="fedjob:party:b", file="two")),
            "A in capitals": files(own.client("A", file="capitals")),
            "a with a blank": files(own.client("a ", file="blank")),
            "nobody's": files(own.client("")),
            "authority": (str(own.cert), str(folder / "hub" / "client-authority" / "key.pem")),
            "foreign a": files(foreign.client("a")),
            "server's": files(hub.authority.server("a", "127.0.0.1")),
        }
        yield made


# -- HTTP -----------------------------------------------------------------------------------------

ROUTES = (
    ("GET", "/v1/parties"),
    ("PUT", f"/v1/objects/{SHA}"),
    ("POST", f"/v1/objects/{SHA}"),
    ("GET", f"/v1/objects/{SHA}"),
    ("HEAD", f"/v1/objects/{SHA}"),
    ("DELETE", f"/v1/objects/{SHA}"),
    ("DELETE", "/v1/jobs/job_1"),
    ("GET", "/v1/jobs/job_1/watch"),
    ("PUT", "/v1/jobs/job_1/watch"),
)

REFUSED = (
    ("a", "none", "a token alone opens nothing"),
    ("a", "b", "the certificate is of b, not of a"),
    ("b", "a", "the certificate is of a, not of b"),
    ("none", "a", "expected the token of a party"),
    ("nobody", "a", "expected the token of a party"),
    ("none", "none", "expected the token of a party"),
    ("gone", "gone", "gone was revoked: ask the hub's owner for `fedjob hub invite gone`"),
    ("a", "gone", "the certificate is of gone, not of a"),
    ("again", "again before", "a key that again has no more"),
    ("a", "a of another key", "a key that a has no more"),
    ("a", "a expired", "expired on"),
    ("a", "a too early", "set the clock that is wrong"),
    ("a", "a and b", "the certificate is of b, not of a"),
    ("b", "a and b", "a key that b has no more"),
    ("a", "A in capitals", "the certificate is of A, not of a"),
    ("a", "a with a blank", "not of a"),
    ("a", "nobody's", "not of a"),
    ("a", "authority", "no handshake"),
    ("a", "foreign a", "no handshake"),
    ("a", "server's", "no handshake"),
)
"""Token, certificate, and what is said of them."""


def ask(world: World, method: str, path: str, token: str, shown: str, **headers: str) -> tuple[int, str]:
    """Return the status of an answer and its text; 0 and the reason where the handshake fails."""
    if world.tokens[token]:
        headers["Authorization"] = f"Bearer {world.tokens[token]}"
    try:
        answer = requests.request(
            method,
            world.hub.url + path,
            headers={"X-Fedjob-Job": "job_1", **headers},
            data=b"x" if method == "PUT" else None,
            cert=world.certificates[shown],
            verify=str(world.hub.ca),
            timeout=20,
        )
    except requests.ConnectionError as error:
        return 0, str(error)
    return answer.status_code, answer.text


@pytest.mark.parametrize(("token", "shown", "words"), REFUSED)
def test_no_route_opens_to_whoever_lacks_a_token_or_its_certificate(
    world: World, token: str, shown: str, words: str
) -> None:
    for method, path in ROUTES:
        status, text = ask(world, method, path, token, shown)
        assert status in (0, 401), (method, path, status, text)
        if status and method != "HEAD":
            assert words in text, (method, path, text)
        elif not status:
            assert words == "no handshake", (method, path, text)


@pytest.mark.parametrize("party", ["a", "b", "again"])
def test_a_token_and_its_certificate_open_every_route(world: World, party: str) -> None:
    for method, path in ROUTES:
        status, text = ask(world, method, path, party, party)
        assert status not in (0, 401), (method, path, status, text)


def test_who_has_nothing_yet_sees_the_hub_and_nothing_else(world: World) -> None:
    assert ask(world, "GET", "/v1/hub", "none", "none")[0] == 200
    for route in ("/v1/certificate", "/v1/parties"):
        assert ask(world, "POST", route, "none", "none")[0] in (400, 401)


PROOFS = {
    "right": ("GET", "/v1/parties", 0.0, 200, ""),
    "of another path": ("GET", "/v1/hub", 0.0, 401, "not signed by the key"),
    "of another method": ("PUT", "/v1/parties", 0.0, 401, "not signed by the key"),
    "from yesterday": ("GET", "/v1/parties", -86400.0, 401, "s ago by this hub's clock"),
    "from tomorrow": ("GET", "/v1/parties", 86400.0, 401, "s ahead by this hub's clock"),
}


@pytest.mark.parametrize("name", PROOFS)
def test_where_no_certificate_arrives_a_request_is_signed(world: World, name: str) -> None:
    method, path, off_s, status, words = PROOFS[name]
    identity = Identity.load_or_create(Path(world.a.home) / "keys")
    made = prove(identity, world.federation, method, path, clock=lambda: time.time() + off_s)
    found, text = ask(world, "GET", "/v1/parties", "a", "none", **{PROOF_HEADER: made})
    assert found == status
    assert words in text
    others, text = ask(world, "GET", "/v1/parties", "b", "none", **{PROOF_HEADER: made})
    assert others == 401, "the signature of another party"
    with_wrong, _ = ask(world, "GET", "/v1/parties", "a", "b", **{PROOF_HEADER: made})
    assert with_wrong == 401, "a certificate that is shown has to be right"


@pytest.mark.parametrize(
    "proof", ["", "1", "1 0", "1 99 zz", "2 " + "0" * 130, "1 " + "9" * 13 + " " + "0" * 128, "\x7f"]
)
def test_a_malformed_signature_opens_nothing(world: World, proof: str) -> None:
    assert ask(world, "GET", "/v1/parties", "a", "none", **{PROOF_HEADER: proof})[0] in (400, 401)


# -- the broker -------------------------------------------------------------------------------------


@dataclass
class Held:
    """What somebody holds who wants to the broker."""

    files: tuple[str, str] | None
    proof: str = ""

    def certificate(self) -> tuple[str, str] | None:
        return self.files

    def headers(self, method: str, path: str) -> dict[str, str]:
        return {PROOF_HEADER: self.proof} if self.proof else {}

    def refused(self) -> None:
        pass


def connects(world: World, url: str, user: str, token: str, held: Held) -> str:
    """Return why a client does not get to the broker; empty where it does."""
    password = broker_password(world.tokens[token]) if world.tokens[token] else "x"
    transport = MqttTransport(
        url, Address(user, "s1"), user, password, tls_ca=world.hub.ca, credentials=held, version=4
    )
    try:
        transport.open(lambda *frame: None, timeout_s=0.5)
    except BrokerUnreachable as error:
        return str(error)
    finally:
        transport.close()
    return ""


@pytest.mark.parametrize(
    ("token", "shown"), [(token, shown) for token, shown, _ in REFUSED if token not in ("none", "nobody")]
)
def test_the_broker_opens_to_nobody_either(world: World, token: str, shown: str) -> None:
    held = Held(world.certificates[shown])
    for url in (world.hub.broker_url, world.a.broker_at_hub):
        assert connects(world, url, token, token, held), url


def test_name_password_and_certificate_at_the_broker_are_of_one_party(world: World) -> None:
    for url in (world.hub.broker_url, world.a.broker_at_hub):
        for user, token, shown in (("a", "b", "a"), ("a", "a", "b"), ("b", "a", "a"), ("a", "nobody", "a")):
            assert connects(world, url, user, token, Held(world.certificates[shown])), (
                url,
                user,
                token,
                shown,
            )
        assert connects(world, url, "a", "a", Held(world.certificates["a"])) == "", url


def test_a_signed_handshake_stands_for_the_certificate_over_websocket_alone(world: World) -> None:
    identity = Identity.load_or_create(Path(world.a.home) / "keys")
    held = Held(None, prove(identity, world.federation, "GET", BROKER_PATH))
    assert connects(world, world.a.broker_at_hub, "a", "a", held) == ""
    assert connects(world, world.a.broker_at_hub, "b", "b", held)
    assert connects(world, world.hub.broker_url, "a", "a", held)


def test_the_reason_of_a_refusal_stands_in_the_error(world: World) -> None:
    transport = MqttTransport(
        world.hub.broker_url,
        Address("a", "s1"),
        "a",
        world.a.broker_password,
        tls_ca=world.hub.ca,
        credentials=Held(world.certificates["b"]),
    )
    speaks_5 = world.hub.running.broker_kind == "mosquitto"  # MQTT 3.1.1 has no place for a reason
    words = "refuses a: the certificate is of b, not of a" if speaks_5 else "refuses a"
    with pytest.raises(BrokerUnreachable, match=words):
        transport.open(lambda *frame: None, timeout_s=1)


def test_nobody_gets_to_the_broker_past_the_hub_with_a_partys_password(world: World) -> None:
    broker = psutil.Process(world.hub.running.broker_pid)
    ports = {
        connection.laddr.port
        for each in (broker, *broker.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert not ports, "it listens on a socket in the hub's home, which nobody else may enter"
    folder = world.hub.folder / "hub"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "broker" / "broker.socket").is_socket()


def test_what_is_no_mqtt_gets_no_answer_and_leaves_the_port_as_it_was(world: World) -> None:
    import ssl

    context = ssl.create_default_context(cafile=str(world.hub.ca))
    context.load_cert_chain(*(world.certificates["a"] or ()))
    port = int(world.hub.broker_url.rpartition(":")[2])
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\x01", b"\x10\x02ab", bytes(100)):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(junk)
            assert secure.recv(100) == b""
    assert connects(world, world.hub.broker_url, "a", "a", Held(world.certificates["a"])) == ""


# -- what a leaked token is good for ------------------------------------------------------------------


def test_a_token_alone_gets_no_certificate_and_no_new_place(world: World, tmp_path: Path) -> None:
    thief = tmp_path / "thief"
    shutil.copy(Path(world.a.home) / "membership.mpk", (thief.mkdir(), thief / "membership.mpk")[1])
    shutil.copy(Path(world.a.home) / "hub-authority.pem", thief / "hub-authority.pem")
    Identity.load_or_create(thief / "keys", "a")
    stolen = load_membership(thief)
    with pytest.raises(NotPermitted, match="not signed by the key of a"):
        stolen.credentials.renew()  # type: ignore[union-attr]
    with pytest.raises(NotPermitted):
        fetch_parties(stolen)
    with pytest.raises(NotPermitted):
        enrol_home(thief, "a", "node", hub=world.hub.url, invite=None)
    with pytest.raises(BrokerUnreachable, match="refuses a"):
        transport_of(stolen, Address("a")).open(lambda *frame: None, timeout_s=1)


def test_revoking_a_party_cuts_its_open_connections(world: World) -> None:
    party = f"short-{world.hub.running.broker_kind}"
    member = world.hub.join(party)
    transports = [
        transport_of(member, Address(party, f"s{number}"), url)
        for number, url in enumerate((world.hub.broker_url, member.broker_at_hub))
    ]
    for transport in transports:
        transport.open(lambda *frame: None, timeout_s=20)
    world.hub.parties().revoke(party)
    wait_until(
        lambda: not any(transport.connected() for transport in transports), timeout_s=20, what="the cut"
    )
    for transport in transports:
        transport.close()
    with pytest.raises(NotPermitted):
        fetch_parties(member)


# -- renewal --------------------------------------------------------------------------------------------


def expire(world: World, home: Path, folder: Path) -> None:
    """Put a certificate of a year ago in a home, of the home's own key."""
    found = certificate_of_home(home)
    authority = Authority.of_hub(world.hub.folder / "hub", folder)
    pem = authority.reissue(found.load(), (-2 * YEAR, -YEAR))
    Path(found.cert).write_bytes(pem)


def test_a_machine_that_was_off_for_a_year_gets_a_new_certificate_by_itself(
    world: World, tmp_path: Path
) -> None:
    party = f"asleep-{world.hub.running.broker_kind}"
    home = Path(world.hub.join(party).home)
    expire(world, home, tmp_path)
    member = load_membership(home)
    assert member.credentials is not None
    assert member.credentials.certificate() is None, "what has expired is not shown"
    enrol_home(home, party, "node", hub=world.hub.url, invite=None)
    assert certificate_of_home(home).load().not_valid_after_utc.timestamp() > time.time()
    assert member.credentials.certificate() is not None
    fetch_parties(member)


@pytest.mark.parametrize("lost", ["keys/tls.key", "keys/tls.pem"])
def test_a_lost_key_or_certificate_is_made_anew(world: World, lost: str) -> None:
    party = f"lost-{lost[-3:]}-{world.hub.running.broker_kind}"
    home = Path(world.hub.join(party).home)
    (home / lost).unlink()
    enrol_home(home, party, "node", hub=world.hub.url, invite=None)
    certificate_of_home(home).check()
    assert (home / "keys" / "tls.key").stat().st_mode & 0o777 == 0o600
    fetch_parties(load_membership(home))


def test_a_key_that_others_may_read_is_named_to_its_owner(world: World) -> None:
    party = f"open-{world.hub.running.broker_kind}"
    home = Path(world.hub.join(party).home)
    (home / "keys" / "tls.key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read .*tls.key.*chmod 600"):
        enrol_home(home, party, "node", hub=world.hub.url, invite=None)


def test_a_running_party_renews_and_keeps_its_connections(tmp_path: Path) -> None:
    """The certificates of this hub are good for 18 s, and were for 18 s before: two thirds are over after 6 s."""
    limits = HubLimits(reserve_bytes=0, certificate_s=18.0)
    with TlsHub(tmp_path, broker_kind="amqtt", limits=limits) as hub:
        member = hub.join("a")
        found = certificate_of_home(Path(member.home))
        first = found.load().serial_number
        broken = threading.Event()
        transport = transport_of(member, Address("a", "s1"))
        transport.open(lambda *frame: None, timeout_s=20, on_connection=lambda up: up or broken.set())
        with open_repository(
            member.hub_url, token=member.token, verify=member.verify, credentials=member.credentials
        ) as repository:
            wait_until(
                lambda: hub_of(member) and found.load().serial_number != first,  # type: ignore[arg-type]
                timeout_s=20,
                what="the renewal",
            )
            ref = repository.put(b"after it", job="job_1")
            assert repository.get_bytes(ref, limit_bytes=100) == b"after it"
        assert broken.wait(30), "a connection ends with the certificate that it was opened with"
        hub_of(member)
        wait_until(transport.connected, timeout_s=20, what="the new connection")
        transport.close()


def test_a_hub_with_a_new_authority_gives_its_parties_new_certificates(tmp_path: Path) -> None:
    with TlsHub(tmp_path, broker_kind="amqtt") as hub:
        home = Path(hub.join("a").home)
        port, mqtt_port = (int(url.rpartition(":")[2]) for url in (hub.url, hub.broker_url))
    shutil.rmtree(tmp_path / "hub" / "client-authority")
    before = certificate_of_home(home).load()
    with TlsHub(tmp_path, broker_kind="amqtt", port=port, mqtt_port=mqtt_port) as again:
        member = load_membership(home)
        member = Membership(
            **{
                **{name: getattr(member, name) for name in member.__slots__},
                "tls_ca": str(again.ca),
            }
        )
        with suppress(RepositoryUnreachable):  # the old certificate is refused, and then another is fetched
            fetch_parties(member)
        assert member.credentials is not None
        wait_until(
            lambda: (
                certificate_of_home(home).load().issuer == before.issuer
                and certificate_of_home(home).load() != before
            ),
            timeout_s=20,
            what="a certificate of the new authority",
        )
        fetch_parties(member)


# -- going back to what has no TLS ---------------------------------------------------------------------------


LIES = (
    ("mqtt://broker.example.org:1883", NotPermitted),
    ("ws://broker.example.org/mqtt", NotPermitted),
    ("tcp://broker.example.org:1883", NotPermitted),
    ("mqtt://127.0.0.1:1883", None),
    ("mqtt://0.0.0.0:1883", None),
    ("ws://localhost:80", None),
)
"""What a hub with TLS says its broker is, and the error; without one the way is that through its own port."""


@pytest.mark.parametrize(("broker", "error"), LIES)
def test_a_hub_with_tls_that_names_a_plain_broker_sends_nobody_there(
    tmp_path: Path, broker: str, error: type[FedjobError] | None
) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.server()

    async def hub(request: Request) -> Response:
        facts = {"federation": "fed", "version": __version__, "read_urls": [], "certificates": {}}
        return JSONResponse({**facts, "broker": {"url": broker, "kind": "mosquitto"}})

    app = Starlette(routes=[Route("/v1/hub", hub)])
    with ServiceThread(lambda: app, tls=TlsFiles(pair.cert, pair.key)) as lying:
        if error is None:
            found = fetch_hub(lying.url, verify=authority.cert)
            assert found.broker_url == f"{lying.url.replace('https', 'wss')}/mqtt"
            return
        with pytest.raises(error, match="others on the network could read passwords"):
            fetch_hub(lying.url, verify=authority.cert)
        with pytest.raises(error, match="others on the network could read passwords"):
            enrol_home(tmp_path / "home", "a", "node", hub=lying.url, invite=None, tls_ca=authority.cert)
        assert not (tmp_path / "home" / "membership.mpk").exists()


def test_a_home_that_joined_over_tls_asks_no_hub_without_it(world: World, tmp_path: Path) -> None:
    plain = world.hub.url.replace("https://", "http://")
    with pytest.raises(ConfigError, match=r"joined .* over TLS, and .* has none"):
        enrol_home(Path(world.a.home), "a", "node", hub=plain, invite=None)
    invitation = tmp_path / "a.invitation"
    invitation.write_bytes(Invitation(plain, "a", "node", "0" * 64).dump())
    with pytest.raises(ConfigError, match=r"joined .* over TLS, and .* has none"):
        enrol_home(Path(world.a.home), "a", "node", hub=None, invite=invitation)


# -- an organisation's own authority -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TlsHub, Authority]]:
    folder = tmp_path_factory.mktemp("own")
    organisation = Authority(folder / "organisation", "the organisation")
    with TlsHub(folder, broker_kind="amqtt", client_ca=organisation.cert, only_certificates=True) as hub:
        yield hub, organisation


def test_parties_bring_certificates_of_their_organisation(own_authority: tuple[TlsHub, Authority]) -> None:
    hub, organisation = own_authority
    for pair, party in (
        (organisation.client("ward"), "ward"),
        (organisation.client("Ward 2", uri="fedjob:party:ward-2", file="ward-2"), "ward-2"),
    ):
        member = hub.join(party, own=own_certificate(pair.cert, pair.key))
        assert load_membership(Path(member.home)).tls_cert == str(pair.cert)
        fetch_parties(load_membership(Path(member.home)))
        transport = transport_of(member, Address(party))
        transport.open(lambda *frame: None, timeout_s=20)
        transport.close()


def test_at_such_a_hub_nobody_joins_without_a_certificate_of_the_name(
    own_authority: tuple[TlsHub, Authority], tmp_path: Path
) -> None:
    hub, organisation = own_authority
    wrong = {
        "another": organisation.client("another"),
        "old": organisation.client("ward-3", valid=(-2 * DAY, -DAY), file="old"),
        "foreign": Authority(tmp_path / "foreign").client("ward-3"),
    }
    with pytest.raises(NotPermitted, match=r"join with that of ward-3, --tls-cert"):
        hub.join("ward-3")
    for words, name in (
        ("certificate is of another", "another"),
        ("expired on", "old"),
        ("refuses the certificate of this party", "foreign"),
    ):
        own = own_certificate(wrong[name].cert, wrong[name].key)
        with pytest.raises(FedjobError, match=words):
            hub.join("ward-3", own=own)


def test_a_hub_that_takes_certificates_only_takes_no_signature(
    own_authority: tuple[TlsHub, Authority],
) -> None:
    hub, organisation = own_authority
    pair = organisation.client("ward-4")
    member = hub.join("ward-4", own=own_certificate(pair.cert, pair.key))
    identity = Identity.load_or_create(Path(member.home) / "keys")
    headers = {
        "Authorization": f"Bearer {member.token}",
        PROOF_HEADER: prove(identity, member.federation, "GET", "/v1/parties"),
    }
    answer = requests.get(f"{hub.url}/v1/parties", headers=headers, verify=str(hub.ca), timeout=20)
    assert answer.status_code == 401
    assert "--only-certificates" in answer.text


@pytest.mark.parametrize("fault", ["missing", "key missing", "open", "mixed", "junk", "one"])
def test_a_fault_of_the_own_files_is_named_before_anybody_is_asked(
    own_authority: tuple[TlsHub, Authority], tmp_path: Path, fault: str
) -> None:
    _, organisation = own_authority
    one, two = organisation.client("x", file=f"x-{fault}"), organisation.client("y", file=f"y-{fault}")
    given: dict[str, tuple[Path | None, Path | None, str]] = {
        "missing": (tmp_path / "no.pem", one.key, "there is no certificate of this party"),
        "key missing": (one.cert, tmp_path / "no.key", "there is no key"),
        "open": (two.cert, two.key, "others may read"),
        "mixed": (one.cert, two.key, "expected a certificate and its key"),
        "junk": (two.key, one.key, "expected a certificate and its key"),
        "one": (one.cert, None, "together"),
    }
    if fault == "open":
        two.key.chmod(0o640)
    cert, key, words = given[fault]
    with pytest.raises(ConfigError, match=words):
        own_certificate(cert, key)


# -- the doctor -------------------------------------------------------------------------------------------------


def test_the_doctor_says_whose_certificate_it_is_and_until_when(world: World) -> None:
    finding = examine_certificate(world.a, "hub")
    assert finding.ok
    until = certificate_of_home(Path(world.a.home)).load().not_valid_after_utc
    assert f"of a, issued by CN=parties of {world.federation}, until {until:%Y-%m-%d}" in finding.found
    assert all(finding.ok for finding in examine_hub(world.a))


@pytest.mark.parametrize("fault", ["gone", "open", "another's", "old", "no key", "none"])
def test_the_doctor_names_each_fault_of_a_certificate(world: World, tmp_path: Path, fault: str) -> None:
    home, own = tmp_path / "home", Authority.of_hub(world.hub.folder / "hub", tmp_path / "own")
    shutil.copytree(Path(world.a.home), home)
    member = load_membership(home)
    pair = own.client("b") if fault == "another's" else own.client("a", valid=(-2 * DAY, -DAY))
    words = {
        "gone": "there is no certificate of this party",
        "no key": "there is no key of the certificate",
        "open": "others may read",
        "another's": "of b, .*: it is not of a",
        "old": "it is not valid now",
        "none": "takes those of another authority",
    }[fault]
    if fault in ("gone", "no key"):
        (home / "keys" / ("tls.pem" if fault == "gone" else "tls.key")).unlink()
    elif fault == "open":
        (home / "keys" / "tls.key").chmod(0o644)
    elif fault != "none":
        shutil.copy(pair.cert, home / "keys" / "tls.pem")
        shutil.copy(pair.key, home / "keys" / "tls.key")
    finding = examine_certificate(member, "parties" if fault == "none" else "hub")
    assert not finding.ok
    assert re.search(words, finding.found)
    assert finding.advice
    assert finding.who


def test_the_doctor_says_where_a_token_alone_is_enough(world: World) -> None:
    finding = examine_certificate(world.a, "")
    assert "whoever reads this party's token can use it" in finding.found


# -- a broker of the owner's own beside the hub -------------------------------------------------------------------


def test_a_plain_broker_on_the_hubs_machine_is_reached_through_the_hub_alone(
    tmp_path: Path, processes: Processes, free_port: Callable[[], int]
) -> None:
    mosquitto, port = program("mosquitto"), free_port()
    with TlsHub(tmp_path, broker_url=f"mqtt://127.0.0.1:{port}", mqtt_port=None) as hub:
        member = hub.join("a")
        assert member.broker_url == f"{hub.url.replace('https', 'wss')}/mqtt"
        files = hub.folder / "hub" / "broker"
        config = tmp_path / "mosquitto.conf"
        inner = settings(tmp_path, files / "passwords", files / "acl", hub.settings.limits)
        config.write_text(inner.replace(f"listener 0 {NAME}", f"listener {port} 127.0.0.1"), encoding="utf-8")
        processes.start(mosquitto, "-c", config, name="mosquitto")
        transport = transport_of(member, Address("a"))
        transport.open(lambda *frame: None, timeout_s=20)
        assert transport.connected()
        transport.close()
        stranger = MqttTransport(member.broker_url, Address("a"), "a", member.broker_password, tls_ca=hub.ca)
        with pytest.raises(BrokerUnreachable, match="refuses a"):
            stranger.open(lambda *frame: None, timeout_s=1)
