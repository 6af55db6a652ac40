"""The check-up of a hub on its own machine."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from fedjob.common.errors import FedjobError
from fedjob.common.network.addresses import is_loopback, on_this_machine
from fedjob.common.network.proxy import DIRECT
from fedjob.doctor import machine
from fedjob.doctor.findings import Finding, Who
from fedjob.hub.broker.certificate_probe import asks_for_certificate, names_by_certificate
from fedjob.hub.broker.probe import answers_login
from fedjob.hub.config.authority import ClientAuthority
from fedjob.hub.config.home import HubHome, Running
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.tls import SOON
from fedjob.hub.storage.bucket import SCHEME, Bucket, BucketAddress, BucketLogin
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Parties
from fedjob.identity.membership import fetch_hub

CONNECT_S = 5.0
_PORTS = {"mqtts": 8883, "ws": 80, "wss": 443}


def examine(home: HubHome) -> list[Finding]:
    """Check the hub's machine, its process, its ports, its certificate and its broker."""
    findings = [
        machine.versions("hub"),
        machine.memory(),
        machine.home(home.folder),
        machine.private(home.folder),
        _ledger(home),
    ]
    running = home.running()
    if running is None:
        return [*findings, Finding("hub", False, "it does not run", "fedjob hub start", "you")]
    findings.append(_answers(running))
    if running.url.startswith("https://"):
        findings.append(_certificate(running))
    findings.append(_shown(running))
    findings.append(_broker(running))
    if running.broker_kind == "external" and running.broker_url.startswith("mqtts://") and findings[-1].ok:
        findings.append(_broker_certificates(home, running))
    if running.storage.startswith(SCHEME):
        findings.append(_bucket(running))
    findings.append(_reachable(running))
    return findings


def _ledger(home: HubHome) -> Finding:
    try:
        ledger = HubDatabase(home.ledger)
    except FedjobError as error:
        return Finding("ledger", False, str(error), "restore a backup: fedjob hub restore FILE", "you")
    try:
        members = [member for member in Parties(ledger, HubLimits()).all() if not member.revoked]
        return Finding("ledger", True, f"{len(members)} parties in {ledger.federation}")
    finally:
        ledger.close()


def _here(running: Running) -> tuple[str, int]:
    """Return where this machine reaches the hub's port."""
    parts = urlsplit(running.url)
    host = parts.hostname or ""
    return on_this_machine(host), parts.port or 443


def _answers(running: Running) -> Finding:
    host, port = _here(running)
    if running.url.startswith("https://"):
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
        except OSError as error:
            return Finding("hub", False, f"{running.url} takes no connections: {error}", "restart it", "you")
        return Finding("hub", True, f"{running.url}, process {running.pid}")
    named = f"[{host}]" if ":" in host else host
    try:
        info = fetch_hub(f"http://{named}:{port}", proxy=DIRECT)
    except FedjobError as error:
        return Finding("hub", False, str(error), "restart it; its log says more", "you")
    return Finding("hub", True, f"{running.url}, process {running.pid}, fedjob {info.version}")


def _certificate(running: Running) -> Finding:
    host, port = _here(running)
    context = ssl.create_default_context()
    context.check_hostname = False  # only to look at what parties are shown
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_S) as plain,
            context.wrap_socket(plain) as secure,
        ):
            found = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError) as error:
        return Finding("certificate", False, f"the handshake broke: {error}", "see docs/tls.md", "you")
    until, now = found.not_valid_after_utc, datetime.now(UTC)
    text = f"issued by {found.issuer.rfc4514_string()}, until {until:%Y-%m-%d}"
    if until <= now or found.not_valid_before_utc > now:
        return Finding(
            "certificate", False, f"{text}: it is not valid now", "renew it, see docs/tls.md", "you"
        )
    return Finding("certificate", True, text, "renew it soon, see docs/tls.md" if until - now < SOON else "")


def _shown(running: Running) -> Finding:
    """Say what parties show besides their names, and what would be better."""
    is_open = running.guard.startswith("tokens alone") and not is_loopback(_host(running))
    advice = "give --tls-cert and --tls-key, or --tls-in-front behind a web server" if is_open else ""
    return Finding("parties show", True, running.guard, advice, "you" if is_open else "")


def _host(running: Running) -> str:
    return urlsplit(running.url).hostname or ""


def _broker(running: Running) -> Finding:
    named = f"{running.broker_kind} {running.broker_version}".strip()
    found, parts = f"{named} at {running.broker_url}", urlsplit(running.broker_url)
    host, port = on_this_machine(parts.hostname or ""), parts.port or _PORTS.get(parts.scheme, 1883)
    try:
        if running.broker_kind == "external" and parts.scheme in ("mqtt", "mqtts"):
            answers = answers_login(host, port, tls=parts.scheme == "mqtts", timeout_s=CONNECT_S)
        else:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
            answers = True
    except OSError as error:
        advice = (
            "look at broker/broker.log in the home" if running.broker_pid else "ask whoever runs the broker"
        )
        return Finding("broker", False, f"{found}: {error}", advice, "you")
    if not answers:
        found = f"{found}: it takes connections and answers no login"
        advice = (
            "RabbitMQ does so while disk or memory is short: rabbitmq-diagnostics alarms, docs/rabbitmq.md"
        )
        return Finding("broker", False, found, advice, "you")
    return Finding("broker", True, found)


def _broker_certificates(home: HubHome, running: Running) -> Finding:
    """Say whether a broker that somebody else runs knows parties by the certificates that they have from this hub."""
    named, advice = "broker certificates", "set it up as envs/mosquitto/mosquitto.conf has it: "
    if not running.guard.startswith("a certificate"):
        return Finding(
            named, True, "this hub asks for none: the broker knows parties by their passwords alone"
        )
    parts = urlsplit(running.broker_url)
    where = on_this_machine(parts.hostname or ""), parts.port or 8883
    owner: Who = "you"
    try:
        if not asks_for_certificate(*where):
            found = "it asks nobody for a certificate: whoever has a party's password is let in"
            return Finding(
                named, False, found, f"{advice}require_certificate, use_identity_as_username", owner
            )
        if "the hub's own authority" not in running.guard:
            return Finding(named, True, "it asks for a certificate, of an authority that is not this hub's")
        with closing(HubDatabase(home.ledger)) as ledger:
            authority = ClientAuthority.load_or_create(home.folder, ledger.federation)
            bound = names_by_certificate(*where, authority, ledger.federation)
    except (OSError, FedjobError) as error:
        return Finding(named, False, f"they can't be tried: {error}", "look at the broker's log", owner)
    if not bound:
        found = "it takes a party's password with the certificate of another party"
        return Finding(
            named, False, found, f"{advice}use_identity_as_username, and the hub's acl file", owner
        )
    return Finding(named, True, "it takes each party's name from its certificate")


def _bucket(running: Running) -> Finding:
    """Check the store by the login of this environment, or of the file that the hub was started with."""
    try:
        login = Path(running.storage_login) if running.storage_login else None
        Bucket(BucketAddress.parse(running.storage), BucketLogin.load(login)).check()
    except FedjobError as error:
        advice = "give the login that the hub has, or ask whoever runs the store"
        return Finding("storage", False, str(error), advice, "you")
    return Finding("storage", True, running.storage)


def _reachable(running: Running) -> Finding:
    host = urlsplit(running.url).hostname or ""
    if is_loopback(host):
        return Finding(
            "reach", True, "this machine alone, unless a web server stands before the hub (envs/nginx)"
        )
    return Finding("reach", True, "other machines, where the firewall lets them in")
