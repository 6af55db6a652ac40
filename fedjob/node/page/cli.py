"""The command `fedjob node page`: the owner's page in a browser, for as long as it runs."""

from __future__ import annotations

import sys

import click

from fedjob.common.console import show_rows
from fedjob.common.errors import ConfigError, MissingPackage
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.served_page import serve_page
from fedjob.doctor.findings import rows_of
from fedjob.node.cli.home import home_option
from fedjob.node.config.home import NodeHome

_OF_THE_EXTRA = ("jinja2", "markupsafe", "starlette", "uvicorn", "h11")


@click.command()
@home_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of this machine's loopback; default a free one.",
)
@click.option("--password", is_flag=True, help="Let a password sign in, too; it is asked for the first time.")
@click.option(
    "--new-password", is_flag=True, help="Ask for a new password, in place of the one that was set."
)
@click.option(
    "--url",
    default="",
    metavar="https://NAME",
    help="Address under which a web server with TLS on this machine shows the page; needs --password or --openid.",
)
@click.option(
    "--openid",
    is_flag=True,
    help="Let people sign in at the OpenID provider of the settings page_...; needs --url, or a --port that stays.",
)
@click.option("--check", is_flag=True, help="Check the sign-in at the provider, and serve no page.")
def page(
    home: NodeHome, port: int, password: bool, new_password: bool, url: str, openid: bool, check: bool
) -> None:
    """Show requests, data, tasks and the audit log in a browser, and decide there.

    The page is served on this machine alone. The link that is printed opens it once; Enter prints another one.

    \b
    fedjob node page
    fedjob node page --port 8123 --password --url https://owner.clinic.example
    fedjob node page --port 8123 --openid --url https://owner.clinic.example
    fedjob node page --port 8123 --openid --url https://owner.clinic.example --check
    """
    try:
        from fedjob.common.pages.password import PagePassword, set_password
        from fedjob.common.pages.site import (
            BEGIN,
            HOST,
            check_outer_url,
            listen_on_loopback,
            make_page_server,
        )
        from fedjob.node.page.openid_door import OpenIdDoor
        from fedjob.node.page.site import owner_site
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _OF_THE_EXTRA:
            raise
        raise MissingPackage(f"the page needs {error.name}: pip install 'fedjob[page]'") from error
    outer_url = check_outer_url(url) if url else ""
    if outer_url and not (password or new_password or openid):
        raise ConfigError("--url shows the page to others than you: add --password or --openid")
    if check and not openid:
        raise ConfigError("--check looks at the sign-in at a provider: add --openid")
    if openid and not outer_url and not port:
        raise ConfigError(
            "--openid needs an address that stays, because the provider knows the page by it: add --port, such as "
            "--port 8123, or --url"
        )
    home.check()
    origin = outer_url or f"http://{HOST}:{port}"
    if check:
        _check_sign_in(home, f"{origin}{BEGIN}/back")
        return
    door = OpenIdDoor(home, origin) if openid else None
    if new_password or (password and not home.page_password.exists()):
        set_password(home.page_password, _asked())
    found = PagePassword(home.page_password) if password or new_password else None
    listener = listen_on_loopback(port)
    try:
        site = owner_site(
            home, port=int(listener.getsockname()[1]), outer_url=outer_url, password=found, door=door
        )
        if door is not None:
            click.echo(f"people sign in at {door.client.issuer}, which knows {door.client.redirect_url}")
        serve_page(site, make_page_server(site), listener, outer_url=outer_url)
    finally:
        listener.close()
    click.echo("page ended")


def _check_sign_in(home: NodeHome, redirect_url: str) -> None:
    """Print what stands between people and a sign-in; end with status 1 where something does."""
    from fedjob.doctor.sign_in import examine_sign_in
    from fedjob.node.owner.sign_in import browser_client

    client = browser_client(home, redirect_url)
    with still_going_on(f"checking the sign-in at {client.issuer}"):
        findings = examine_sign_in(client)
    show_rows(rows_of(findings), False)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _asked() -> str:
    """Return the password that a person types twice, or the first line of what is piped in."""
    if sys.stdin.isatty():
        return str(click.prompt("Password of the page", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")
