"""The check of a hub and its broker, as a party of the federation sees them."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from fedjob.common.errors import BrokerUnreachable, ConfigError, FedjobError, NoSpace, NotPermitted
from fedjob.common.network.addresses import is_loopback
from fedjob.common.types import Address
from fedjob.doctor.findings import Finding, Who
from fedjob.doctor.way import SOON
from fedjob.identity.client_certificate import certificate_of_home, describe
from fedjob.identity.membership import Membership, hub_of
from fedjob.identity.party_list import fetch_parties
from fedjob.messaging.clock import clock_text, hub_ahead_s
from fedjob.messaging.transport.mqtt import MqttTransport, transport_of
from fedjob.repository import open_repository

PROBE_S = 0.7
"""Time to wait for the forbidden message, after the permitted one that was sent later has arrived."""

ARRIVE_S = 10.0
"""Time to wait for the permitted message."""

BROKER_S = 4.0


def examine_hub(membership: Membership) -> list[Finding]:
    """Check the hub itself, the clock against its own, the login and the objects; stop where it does not answer."""
    try:
        info = hub_of(membership)
    except FedjobError as error:
        certificate = "TLS" in str(error) or "certificate" in str(error)
        advice = "see docs/tls.md" if certificate else "start it: fedjob hub start"
        return [Finding("hub", False, str(error), advice, "the hub's owner")]
    ahead_s = hub_ahead_s(info.time, info.asked, info.answered)
    wrong = clock_text(ahead_s)
    return [
        Finding("hub", True, f"{membership.hub_url}, fedjob {info.version}"),
        Finding(
            "clock",
            not wrong,
            wrong or f"{abs(ahead_s or 0.0):.0f} s from the hub's",
            "set this machine's clock (NTP): messages expire by it" if wrong else "",
            "your IT" if wrong else "",
        ),
        examine_certificate(membership, info.certificates),
        _login(membership),
        _objects(membership),
    ]


def examine_certificate(membership: Membership, issuer: str, now: datetime | None = None) -> Finding:
    """Check the certificate that the party shows its hub.

    Args:
        issuer: who issues it, `hub` or `parties`; empty where the hub asks for none.
        now: in UTC; None for the present.
    """
    check, now = "own certificate", now or datetime.now(UTC)
    if not issuer:
        has_tls = membership.hub_url.startswith("https://")
        why = "the hub asks for none" if has_tls else "the hub has no TLS"
        advice = "start it with --tls-in-front" if has_tls else "give it --tls-cert and --tls-key"
        found = f"none: {why}, so whoever reads this party's token can use it"
        is_here = is_loopback(urlsplit(membership.hub_url).hostname or "")
        return Finding(check, True, found, "" if is_here else advice, "" if is_here else "the hub's owner")
    certificate = membership.own_certificate
    if certificate is None and issuer == "parties":
        found = "none, and this hub takes those of another authority"
        advice = "ask your organisation for one; then the settings tls_cert and tls_key"
        return Finding(check, False, found, advice, "your IT")
    certificate = certificate or certificate_of_home(Path(membership.home))
    advice = (
        "get a new one; then the settings tls_cert and tls_key"
        if certificate.is_own
        else "start again: the hub issues a new one"
    )
    who: Who = "your IT" if certificate.is_own else "you"
    try:
        whose = describe(certificate.check())
    except ConfigError as error:
        return Finding(check, False, str(error), "see docs/tls.md", "you")
    text = f"of {', '.join(sorted(whose.names)) or 'nobody'}, issued by {whose.issuer}, until {whose.ends:%Y-%m-%d}"
    if membership.party not in whose.names:
        return Finding(check, False, f"{text}: it is not of {membership.party}", advice, who)
    if not whose.begins <= now < whose.ends:
        return Finding(check, False, f"{text}: it is not valid now", advice, who)
    soon = certificate.is_own and whose.ends - now < SOON
    return Finding(check, True, text, advice if soon else "", who if soon else "")


def examine_broker(membership: Membership) -> list[Finding]:
    """Check the broker: by the URL that the hub announces, through the hub's own port, and its rights."""
    announced, at_hub = membership.broker_url, membership.broker_at_hub
    trouble = _connects(membership, announced)
    findings = []
    if announced != at_hub:
        behind = _connects(membership, at_hub)
        found = behind or at_hub
        advice = "" if not behind else "let the web server before the hub pass on WebSocket, see envs/nginx"
        findings.append(
            Finding(
                "websocket", not behind or not trouble, found, advice, "the hub's owner" if behind else ""
            )
        )
        if trouble and not behind:
            why = f"{trouble}; it is reached through the hub's port instead"
            return [Finding("broker", True, why), *findings, _rights(membership)]
    if trouble:
        advice = "look at the hub's log and its ports"
        if "refuses" in trouble:
            advice = "enrol again, or ask whether this party was revoked"
        elif "did not answer" in trouble:
            advice = "look at the broker's disk and memory, and at its log"
        return [Finding("broker", False, trouble, advice, "the hub's owner"), *findings]
    return [Finding("broker", True, announced), *findings, _rights(membership)]


def _login(membership: Membership) -> Finding:
    try:
        parties = fetch_parties(membership)
    except FedjobError as error:
        if "certificate" in str(error):
            return Finding("token", False, str(error), "see the line own certificate, and docs/tls.md", "you")
        command = "fedjob node init" if membership.role == "node" else "fedjob init"
        advice = (
            f"have a new invitation made, then: {command} --id {membership.party} --invite FILE in this home"
        )
        return Finding("token", False, str(error), advice, "the hub's owner")
    return Finding("token", True, f"{len(parties)} parties in the roster")


def _objects(membership: Membership) -> Finding:
    data, job = secrets.token_bytes(1000), f"doctor-{secrets.token_hex(8)}"
    try:
        with open_repository(
            membership.hub_url,
            token=membership.token,
            verify=membership.verify,
            proxy=membership.proxy,
            credentials=membership.credentials,
        ) as repository:
            started = time.perf_counter()
            ref = repository.put(data, job=job)
            same = repository.get_bytes(ref, limit_bytes=2000) == data
            repository.end_job(job)
            elapsed = time.perf_counter() - started
    except FedjobError as error:
        advice = {
            NoSpace: "free space on the hub's disk",
            NotPermitted: "ask whether this party was revoked",
        }.get(type(error), "look at the hub's log and its disk")
        return Finding("repository", False, str(error), advice, "the hub's owner")
    return Finding("repository", same, f"1 kB there and back in {elapsed * 1000:.0f} ms")


def _connects(membership: Membership, url: str) -> str:
    """Return why the broker can't be reached by a URL; empty where it can."""
    address = Address(membership.party, f"doctor{secrets.token_hex(4)}")
    transport = transport_of(membership, address, url)
    try:
        transport.open(lambda sender, frame: None, timeout_s=BROKER_S)
    except FedjobError as error:
        return str(error)
    finally:
        transport.close()
    return ""


def _rights(membership: Membership) -> Finding:
    """Check that the broker carries no message that this party sends under another party's name."""
    forged, arrived = threading.Event(), threading.Event()

    def transport(party: str) -> MqttTransport:
        return transport_of(membership, Address(party, f"doctor{secrets.token_hex(4)}"))

    mine, other = transport(membership.party), transport("nobody")
    try:
        mine.open(
            lambda sender, frame: (arrived if sender == membership.party else forged).set(),
            timeout_s=BROKER_S,
        )
        try:
            other.open(lambda sender, frame: None, timeout_s=3)
            other.send(mine.address, b"probe")
            mine.send(mine.address, b"probe")
            arrived.wait(ARRIVE_S)
            forged.wait(PROBE_S)
        except BrokerUnreachable:
            pass  # it refuses already that this party listens under another's name
    finally:
        other.close()
        mine.close()
    if forged.is_set():
        advice = "install the rules of envs/mosquitto: any party can speak for any other"
        return Finding(
            "broker rights",
            False,
            "it carries messages under another party's name",
            advice,
            "the hub's owner",
        )
    return Finding("broker rights", True, "it carries no message under another party's name")
