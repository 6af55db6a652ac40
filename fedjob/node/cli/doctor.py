"""The command `fedjob node doctor`: what is wrong at a node or on its way to the hub, and who can mend it."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, show_rows
from fedjob.common.errors import FedjobError
from fedjob.common.terminal.going_on import still_going_on
from fedjob.doctor.findings import Finding, rows_of
from fedjob.node.cli.home import home_option

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.command()
@home_option
@click.option(
    "--for-it",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page that a hospital's IT signs (hosts, ports, protocols, what leaves) to this file.",
)
@json_option
def doctor(home: NodeHome, for_it: Path | None, as_json: bool) -> None:
    """Check this machine, the way to the hub, the hub and the node; print what to do and who can do it.

    \b
    fedjob node doctor
    fedjob node doctor --for-it it.md
    """

    from fedjob.doctor.it_page import page_for_it
    from fedjob.identity.membership import load_membership

    if for_it is not None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        for_it.write_text(page_for_it(load_membership(home.root), today), encoding="utf-8")
        click.echo(f"{for_it}: the page for your IT")
        return
    with still_going_on("checking this machine and the way to the hub"):
        findings = examine(home)
    show_rows(rows_of(findings), as_json)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def examine(home: NodeHome) -> list[Finding]:
    """Check everything that a node needs, in order; stop where nothing after can work."""

    from fedjob.doctor import machine
    from fedjob.doctor.hub import examine_broker, examine_hub
    from fedjob.doctor.way import examine_way
    from fedjob.identity.membership import load_membership

    findings = [
        machine.versions("node", "training"),
        machine.torch(),
        machine.memory(),
        machine.home(home.root),
        machine.private(home.root),
    ]
    try:
        home.check()
        membership = load_membership(home.root)
    except FedjobError as error:
        advice = "fedjob node init --id NAME --invite FILE"
        return [*findings, Finding("membership", False, str(error), advice, "you")]
    findings.append(Finding("membership", True, f"{membership.party} in {membership.federation}"))
    findings.append(_settings(home))
    findings += _sign_in(home)
    way = examine_way(membership)
    findings += way
    if all(f.ok for f in way):
        hub = examine_hub(membership)
        findings += hub
        if hub[0].ok:
            findings += examine_broker(membership)
    return [*findings, *_daemon(home)]


def _settings(home: NodeHome) -> Finding:
    from fedjob.node.daemon.settings import Settings

    faults = Settings(home)().faults
    if faults:
        advice = "fedjob node config set or unset; until then the strictest settings hold"
        return Finding("settings", False, "; ".join(faults)[:400], advice, "you")
    return Finding("settings", True, "they can be read")


def _sign_in(home: NodeHome) -> list[Finding]:
    """Check the sign-in to the owner's page, where the settings have one; its address is known to the page alone."""
    from fedjob.common.config import read_settings
    from fedjob.node.config.config import NodeConfig

    if not read_settings(NodeConfig, home.root).values.get("page_issuer"):
        return []
    from fedjob.doctor.sign_in import examine_sign_in
    from fedjob.node.owner.sign_in import browser_client

    try:
        client = browser_client(home, "")
    except FedjobError as error:
        return [Finding("sign-in", False, str(error), "see docs/owner_page.md", "you")]
    return examine_sign_in(client)


def _daemon(home: NodeHome) -> list[Finding]:
    """Check the node's process, where one runs."""

    from fedjob.node.config.home_lock import running_pid
    from fedjob.node.daemon.settings import live_facts

    pid = running_pid(home)
    if pid is None:
        return [Finding("node", True, "it does not run", "fedjob node start", "you")]
    facts = live_facts(home)
    findings = [Finding("node", True, f"it runs, process {pid}")]
    if not facts.get("connected"):
        trouble = str(facts.get("trouble") or "it is starting")
        findings[0] = Finding(
            "node", False, f"it runs and is not connected: {trouble}", "see the lines above", "you"
        )
    if facts.get("encryption"):
        findings.append(Finding("encryption", True, str(facts["encryption"])))
    if facts.get("twin"):
        found = "another daemon runs under this node's name, such as one on a copy of its home"
        findings.append(Finding("identity", False, found, "stop one of them: fedjob node stop", "you"))
    return findings
