"""The check-up of a federation from a researcher's home, with advice for every fault."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedjob.common.errors import FedjobError
from fedjob.doctor import machine
from fedjob.doctor.findings import Finding
from fedjob.doctor.hub import examine_broker, examine_hub
from fedjob.doctor.way import examine_way
from fedjob.identity.membership import load_membership
from fedjob.researcher.connection.catalogue import NodeInfo, list_nodes
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.home import check_home
from fedjob.researcher.connection.opening import open_connection


def examine(home: Path) -> list[Finding]:
    """Check everything that a job needs, in order; stop where nothing after can work."""
    findings = [machine.versions("researcher"), machine.home(home, check_home), machine.private(home)]
    try:
        membership = load_membership(home)
    except FedjobError as error:
        return [*findings, Finding("membership", False, str(error), "fedjob init --id NAME --hub URL", "you")]
    findings.append(Finding("membership", True, f"{membership.party} in {membership.federation}"))
    for examine_part in (examine_way, examine_hub, examine_broker):
        findings += examine_part(membership)
        if not all(f.ok for f in findings if f.check in _NEEDED):
            return findings
    return findings + _nodes(home)


_NEEDED = ("proxy", "name", "port", "certificate", "hub", "token", "broker")
"""Checks without which nothing after them can work."""


def _nodes(home: Path) -> list[Finding]:
    try:
        connection = open_connection(Connection, home=home)
    except FedjobError as error:
        return [Finding("nodes", False, str(error), "look at the hub's log", "the hub's owner")]
    with connection:
        nodes = list_nodes(connection)
        online = [node.id for node in nodes if node.online]
        findings = [Finding("encryption", True, connection.encryption), *twin_findings(nodes)]
        misdated = connection.endpoint.misdated
        findings += [_misdated(node) for node in nodes if not node.online and node.id in misdated]
        away = "".join(f"; {node.id}: {node.silence}" for node in nodes if not node.online)
        found = f"{len(online)} of {len(nodes)} answer: {', '.join(online) or '-'}{away}"
        advice = "" if online else "start one: fedjob node start"
        findings.append(Finding("nodes", bool(online), found, advice, "" if online else "the node's owner"))
        return findings + settings_of(nodes)


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
