"""The command `fedjob node join`: from an invitation to a node that runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.files import write_atomic
from fedjob.common.terminal.going_on import still_going_on
from fedjob.doctor.findings import Finding
from fedjob.node.cli.home import home_option

if TYPE_CHECKING:
    from fedjob.identity.membership import Invitation
    from fedjob.node.config.home import NodeHome


T = TypeVar("T")

UNIT = "fedjob-node.service"


@click.command()
@click.argument("invitation", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@home_option
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, or of a proxy's that looks inside TLS.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path, dir_okay=False),
    help="This party's own certificate, where the hub issues none; it stays where it is.",
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="Key of --tls-cert.")
@click.option("--proxy", help="Proxy on the way to the hub, http://[USER:PASSWORD@]HOST:PORT, or none.")
@click.option(
    "--detach", is_flag=True, help="Return when the node is ready, and keep it running in the background."
)
@click.option("--systemd", is_flag=True, help="Write a service of this user instead of starting the node.")
def join(
    invitation: Path,
    home: NodeHome,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy: str | None,
    detach: bool,
    systemd: bool,
) -> None:
    """Make a node of INVITATION: its home, its keys and its place in the federation; check it and start it.

    On a terminal it asks for what is missing (a certificate's authority, a proxy); elsewhere it asks nothing.

    \b
    fedjob node join clinic-1.invitation --detach
    fedjob node join clinic-1.invitation --systemd --proxy http://proxy.clinic.example:3128
    """

    from fedjob.identity.client_certificate import own_certificate
    from fedjob.identity.enrolment import check_role_of_home, keep_authority
    from fedjob.identity.membership import Invitation
    from fedjob.node.cli.daemon import start_detached, start_here
    from fedjob.node.cli.doctor import examine
    from fedjob.node.config.home_lock import running_pid
    from fedjob.node.joining import init_node

    if detach and systemd:
        raise click.UsageError("give --detach or --systemd, not both")
    invited = Invitation.load(invitation)
    if invited.role != "node":
        raise ConfigError(
            f"{invitation} invites a {invited.role}: use fedjob init --id {invited.party} --invite {invitation}"
        )
    check_role_of_home(home.root, "node")
    tls_ca = tls_ca or keep_authority(home.root, invited)
    tls_ca, proxy = _find_way(invited, tls_ca, proxy)
    own = own_certificate(tls_cert, tls_key)
    with still_going_on("joining the federation"):
        init_node(home, invited.party, hub=None, invite=invitation, tls_ca=tls_ca, proxy=proxy, own=own)
    with still_going_on("checking this machine and the way to the hub"):
        findings = examine(home)
    for finding in findings:
        _show(finding)
    if broken := [finding.check for finding in findings if not finding.ok]:
        again = f"fedjob node doctor --home {home.root}"
        raise FedjobError(
            f"the node is a member, but is not started: {', '.join(broken)}; then look again: {again}"
        )
    click.echo(f"{invited.party} is a node of the federation; home: {home.root}")
    if (keys := invited.federation) is not None:
        click.echo(
            f"its roster is signed by {keys.name}, key {keys.fingerprint}: compare that with {keys.signer}"
        )
    _say_next(home)
    if systemd:
        _write_unit(home)
    elif running_pid(home) is not None:
        click.echo("the node runs already")
    elif detach:
        start_detached(home)
    else:
        start_here(home)


def _find_way(invited: Invitation, tls_ca: Path | None, proxy: str | None) -> tuple[Path | None, str | None]:
    """Return certificate and proxy by which the hub is reached; asks for them on a terminal.

    Raises:
        FedjobError: there is no way, and nobody to ask.
    """

    from fedjob.doctor.way import examine_way
    from fedjob.identity.membership import Membership

    while True:
        address = invited.hub.rstrip("/")
        membership = Membership(
            address, "", invited.party, "node", "00", "", "", str(tls_ca or ""), proxy or ""
        )
        with still_going_on("looking for the way to the hub"):
            findings = examine_way(membership)
        broken = next((finding for finding in findings if not finding.ok), None)
        if broken is None:
            return tls_ca, proxy
        for finding in findings:
            _show(finding)
        if not sys.stdin.isatty():
            option = "--tls-ca FILE" if broken.check == "certificate" else "--proxy URL"
            raise FedjobError(f"there is no way to {invited.hub}: {broken.found}; {broken.advice} ({option})")
        if broken.check == "certificate":
            tls_ca = _ask("Certificate of the hub's authority (a PEM file)", _existing_file)
        else:
            proxy = _ask("Proxy on the way to the hub (http://HOST:PORT, or none)", str)


def _ask(question: str, read: Callable[[str], T]) -> T:
    answer: T = click.prompt(question, value_proc=read)
    return answer


def _existing_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise click.BadParameter(f"there is no file {text}")
    return path


def _show(finding: Finding) -> None:
    advice = f"; {finding.who or 'you'}: {finding.advice}" if finding.advice and not finding.ok else ""
    click.echo(f"  {'ok  ' if finding.ok else 'BAD '} {finding.check:<14} {finding.found}{advice}")


def _say_next(home: NodeHome) -> None:
    where = f" --home {shlex.quote(str(home.root))}"
    click.echo(f"next: offer data       fedjob node data add NAME PATH --tags TAG{where}")
    click.echo(f"      decide requests  fedjob node grants list{where}")
    click.echo(f"      look at it       fedjob node status{where}")


def _write_unit(home: NodeHome) -> None:
    """Write the node's service for this user's systemd."""
    folder = Path("~/.config/systemd/user").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-m", "fedjob", "node", "start", "--home", str(home.root)])
    text = f"""[Unit]
Description=fedjob node
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command.replace("%", "%%")}
Restart=always
RestartSec=5
TimeoutStopSec=30
KillMode=mixed
UMask=0077
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""
    path = folder / UNIT
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{path} is there already and is another: move it away, or start the node with --detach"
        )
    write_atomic(path, text.encode())
    click.echo(f"{path} is written. Start it now and at every boot:")
    click.echo(
        f"systemctl --user daemon-reload && systemctl --user enable --now {UNIT} && loginctl enable-linger"
    )
