"""The check-up of a federation from a researcher's home, with advice for every fault."""

from __future__ import annotations

import importlib.metadata
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import BrokerUnreachable, FedjobError
from fedjob.common.types import Address
from fedjob.identity.membership import Membership, fetch_hub, fetch_parties, load_membership
from fedjob.messaging.clock import clock_text, hub_ahead_s
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.repository import open_repository
from fedjob.researcher.connection.catalogue import NodeInfo, list_nodes
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.home import check_home
from fedjob.researcher.connection.opening import open_connection

PROBE_S = 0.7
"""Time to wait for the forbidden message, after the permitted one that was sent later has arrived."""

LOW_BYTES = 1 << 30
"""Free space on the disk of a home below which the doctor warns."""

ARRIVE_S = 10.0
"""Time to wait for the permitted message."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, and the advice where it failed."""

    check: str
    ok: bool
    found: str
    advice: str = ""


def examine(home: Path) -> list[Finding]:
    """Check everything that a job needs, in order; stop where nothing after can work."""
    findings = [_versions(), _disk(home)]
    try:
        membership = load_membership(home)
    except FedjobError as error:
        return [*findings, Finding("membership", False, str(error), "fedjob init --id NAME --hub URL")]
    findings.append(Finding("membership", True, f"{membership.party} in {membership.federation}"))
    try:
        info = fetch_hub(membership.hub_url, verify=membership.verify)
    except FedjobError as error:
        advice = (
            "see docs/tls.md"
            if "TLS" in str(error) or "certificate" in str(error)
            else "start it: fedjob hub start"
        )
        return [*findings, Finding("hub", False, str(error), advice)]
    findings.append(Finding("hub", True, f"{membership.hub_url}, fedjob {info.version}"))
    ahead_s = hub_ahead_s(info.time, info.asked, info.answered)
    wrong = clock_text(ahead_s)
    findings.append(
        Finding(
            "clock",
            not wrong,
            wrong or f"{abs(ahead_s or 0.0):.0f} s from the hub's",
            "set this machine's clock (NTP): messages expire by it" if wrong else "",
        )
    )
    findings.append(_token(membership))
    findings.append(_repository(membership))
    findings += _broker(home)
    return findings


def _versions() -> Finding:
    names = ("fedjob", "torch", "numpy", "msgpack", "paho-mqtt", "safetensors", "cryptography")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Finding("versions", sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}, {found}")


def _disk(home: Path) -> Finding:
    """Check that this home can be written and that its disk has room for jobs."""
    try:
        check_home(home)
        free_bytes = shutil.disk_usage(home).free
    except (FedjobError, OSError) as error:
        return Finding(
            "home", False, str(error), "free some space, or give another folder: --home, FEDJOB_HOME"
        )
    is_enough = free_bytes >= LOW_BYTES
    found = f"{home}, {free_bytes / 1e9:.1f} GB free"
    return Finding("home", is_enough, found, "" if is_enough else "free some space: breakpoints need it")


def _token(membership: Membership) -> Finding:
    try:
        parties = fetch_parties(membership)
    except FedjobError as error:
        advice = (
            "ask the hub's owner for a new invitation, then: fedjob init --id NAME --invite FILE in this home"
        )
        return Finding("token", False, str(error), advice)
    return Finding("token", True, f"{len(parties)} parties in the roster")


def _repository(membership: Membership) -> Finding:
    data, job = secrets.token_bytes(1000), f"doctor-{secrets.token_hex(8)}"
    try:
        with open_repository(
            membership.hub_url, token=membership.token, verify=membership.verify
        ) as repository:
            started = time.perf_counter()
            ref = repository.put(data, job=job)
            same = repository.get_bytes(ref, limit_bytes=2000) == data
            repository.end_job(job)
            elapsed = time.perf_counter() - started
    except FedjobError as error:
        return Finding("repository", False, str(error), "look at the hub's log and its disk")
    return Finding("repository", same, f"1 kB there and back in {elapsed * 1000:.0f} ms")


def _broker(home: Path) -> list[Finding]:
    try:
        connection = open_connection(Connection, home=home)
    except FedjobError as error:
        return [
            Finding("broker", False, str(error), "look at the hub's log; is the broker's port reachable?")
        ]
    with connection:
        findings = [Finding("broker", True, connection.membership.broker_url)]
        nodes = list_nodes(connection)
        online = [node.id for node in nodes if node.online]
        findings += twin_findings(nodes)
        misdated = connection.endpoint.misdated
        findings += [_misdated(node) for node in nodes if not node.online and node.id in misdated]
        away = "".join(f"; {node.id}: {node.silence}" for node in nodes if not node.online)
        findings.append(
            Finding(
                "nodes",
                bool(online),
                f"{len(online)} of {len(nodes)} answer: {', '.join(online) or '-'}{away}",
                "" if online else "start one: fedjob node start",
            )
        )
        findings += settings_of(nodes)
    findings.append(_rights(home))
    return findings


def twin_findings(nodes: Iterable[NodeInfo]) -> list[Finding]:
    """Return a finding for each node under whose name two daemons run."""
    found = (
        "two daemons run under its name, such as one on a copy of its home: each takes the other's messages"
    )
    advice = "its owner stops one of them: fedjob node stop"
    return [Finding(f"node {node.id}", False, found, advice) for node in nodes if node.twin]


def _misdated(node: NodeInfo) -> Finding:
    return Finding(f"node {node.id}", False, node.silence, "its owner sets that machine's clock (NTP)")


def settings_of(nodes: Iterable[NodeInfo]) -> list[Finding]:
    """Return a finding for each node that can't read its owner's settings, and for each without a sandbox."""
    nodes = list(nodes)
    return [
        Finding(
            f"settings of {node.id}",
            False,
            f"{node.faults} can't be read there, so its strictest hold: every use of data is asked for",
            f"ask its owner{f' ({node.contact})' if node.contact else ''} to look at `fedjob node status`",
        )
        for node in nodes
        if node.faults
    ] + [
        Finding(
            f"sandbox of {node.id}",
            node.sandbox != "refused",
            "none: plans run there with all that the node's user may do"
            if node.sandbox == "none"
            else "none can be closed there, so it starts no worker",
            f"ask its owner{f' ({node.contact})' if node.contact else ''} to look at `fedjob node status`",
        )
        for node in nodes
        if node.sandbox in ("none", "refused")
    ]


def _rights(home: Path) -> Finding:
    """Check that the broker carries no message that this party sends under another party's name."""
    membership = load_membership(home)
    forged, arrived = threading.Event(), threading.Event()

    def transport(party: str) -> MqttTransport:
        address = Address(party, f"doctor{secrets.token_hex(4)}")
        return MqttTransport(
            membership.broker_url,
            address,
            membership.party,
            membership.broker_password,
            tls_ca=membership.tls_ca or None,
        )

    mine, other = transport(membership.party), transport("nobody")
    try:
        mine.open(
            lambda sender, frame: (arrived if sender == membership.party else forged).set(), timeout_s=10
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
        return Finding("broker rights", False, "it carries messages under another party's name", advice)
    return Finding("broker rights", True, "it carries no message under another party's name")
