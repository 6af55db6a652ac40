"""The commands `fedjob login` and `fedjob logout`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from fedjob.researcher.cli.home import HOME


@click.command()
@HOME
@click.option("--issuer", required=True, help="URL of the identity provider, from the node's owner.")
@click.option(
    "--client-id", required=True, help="Client id under which fedjob is registered at the provider."
)
@click.option(
    "--tls-ca",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="Certificate of the provider's own authority, if it has one.",
)
def login(home: Path | None, issuer: str, client_id: str, tls_ca: str | None) -> None:
    """Log in at an OpenID provider, for nodes that require a login beside a signature.

    \b
    fedjob login --issuer https://id.example.org/realms/research --client-id fedjob
    """
    from fedjob.identity.keys import Identity
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.connection.login import login as log_in

    folder = home_path(home)
    identity = Identity.load_or_create(folder / "keys")
    made = log_in(
        folder,
        identity,
        issuer=issuer,
        client_id=client_id,
        tls_ca=tls_ca or "",
        tell=lambda prompt: click.echo(str(prompt), err=True),
    )
    until = datetime.fromtimestamp(made.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    renewed = ", renewed by itself" if made.refresh_token else ""
    click.echo(f"{identity.party} is logged in at {issuer} until {until}{renewed}")


@click.command()
@HOME
def logout(home: Path | None) -> None:
    """Delete the login of this home; the session at the provider is not ended.

    \b
    fedjob logout
    """
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.connection.login import log_out

    click.echo("logged out" if log_out(home_path(home)) else "nobody was logged in")
