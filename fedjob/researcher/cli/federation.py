"""The commands `fedjob init`, `nodes`, `data` and `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedjob.common.console import json_option, show_rows
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME


@click.command()
@HOME
@click.option("--id", "party", required=True, help="Your id in the federation.")
@click.option(
    "--invite", type=click.Path(exists=True, dir_okay=False), help="Invitation file from the hub's owner."
)
@click.option("--hub", help="URL of a hub on this machine.")
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, if it has one; it is copied into the home.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path, dir_okay=False),
    help="This party's own certificate, where the hub issues none; it stays where it is.",
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="Key of --tls-cert.")
@click.option(
    "--proxy",
    help="Proxy on the way to the hub, http://[USER:PASSWORD@]HOST:PORT, or none.  [default: as the environment says]",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False),
    help="File with a private key to use; by default a new one is made.",
)
@click.option("--strict", is_flag=True, help="Refuse nodes that are not in the home's file known_nodes.")
def init(
    home: Path | None,
    party: str,
    invite: str | None,
    hub: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy: str | None,
    key: str | None,
    strict: bool,
) -> None:
    """Make a researcher's home, with a key pair, and join a federation.

    \b
    fedjob init --id alice --invite alice.invitation
    fedjob init --id alice --hub http://127.0.0.1:8844
    """
    from fedjob.common.config import set_config
    from fedjob.identity.client_certificate import own_certificate
    from fedjob.researcher.connection.home import ResearcherConfig, home_path
    from fedjob.researcher.connection.joining import join

    if hub is None and invite is None:
        raise click.UsageError("give --hub URL for a hub on this machine, or --invite FILE for any other")
    folder = home_path(home)
    own = own_certificate(tls_cert, tls_key)
    with still_going_on("joining the federation"):
        membership, _ = join(
            folder, hub=hub, id=party, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own
        )
    if strict:
        set_config(ResearcherConfig, folder, "strict", "on")
    click.echo(f"{membership.party} is a researcher of {membership.federation}; home: {folder}")


@click.command()
@HOME
@json_option
def nodes(home: Path | None, as_json: bool) -> None:
    """List the nodes of the federation and whether they answer.

    \b
    fedjob nodes
    fedjob nodes --json
    """
    from fedjob.researcher.jobs.session import connect

    with still_going_on("asking the nodes"), connect(home=home) as session:
        found = session.nodes()
    show_rows(
        [
            {
                "id": n.id,
                "online": n.online,
                "version": n.version,
                "datasets": n.num_datasets,
                "ready": n.ready,
                "busy": n.busy,
                "free": n.free,
                "note": "two daemons run under its name" if n.twin else n.silence,
            }
            for n in found
        ],
        as_json,
        empty="no nodes are enrolled: fedjob node init --id NAME --invite FILE (or --hub URL on the hub's own machine)",
    )


@click.command()
@HOME
@click.option("--tags", default="", help="Only datasets with all of these tags, comma separated.")
@json_option
def data(home: Path | None, tags: str, as_json: bool) -> None:
    """List the datasets that nodes offer.

    \b
    fedjob data
    fedjob data --tags heart,uci
    """
    from fedjob.researcher.jobs.session import connect

    with still_going_on("asking the nodes"), connect(home=home) as session:
        found = session.datasets(tags=[tag.strip() for tag in tags.split(",") if tag.strip()])
    show_rows(
        [
            {"node": d.node, "name": d.name, "tags": ",".join(d.tags), "rows": d.num_rows, "reader": d.reader}
            for d in found
        ],
        as_json,
        empty="no datasets found: fedjob node data add NAME PATH --tags ... at a node that runs",
    )
    for node, why in found.silent.items():
        click.echo(f"fedjob: {node}: {why}", err=True)


@click.command()
@HOME
@json_option
def doctor(home: Path | None, as_json: bool) -> None:
    """Check hub, broker rights, repository, clock and versions; print what to do about problems.

    \b
    fedjob doctor
    fedjob doctor --json
    """
    from fedjob.doctor.findings import rows_of
    from fedjob.researcher.connection.doctor import examine
    from fedjob.researcher.connection.home import home_path

    with still_going_on("checking the way to the hub"):
        findings = examine(home_path(home))
    show_rows(rows_of(findings), as_json)
    if not all(finding.ok for finding in findings):
        sys.exit(1)
