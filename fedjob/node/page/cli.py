"""The command `fedjob node page`: the owner's page in a browser, for as long as it runs."""

from __future__ import annotations

import sys

import click

from fedjob.common.errors import ConfigError, MissingPackage
from fedjob.common.terminal.served_page import serve_page
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
    help="Address under which a web server with TLS on this machine shows the page; needs --password.",
)
def page(home: NodeHome, port: int, password: bool, new_password: bool, url: str) -> None:
    """Show requests, data, tasks and the audit log in a browser, and decide there.

    The page is served on this machine alone. The link that is printed opens it once; Enter prints another one.

    \b
    fedjob node page
    fedjob node page --port 8123 --password --url https://owner.clinic.example
    """
    try:
        from fedjob.common.pages.password import PagePassword, set_password
        from fedjob.common.pages.site import check_outer_url, listen_on_loopback, make_page_server
        from fedjob.node.page.site import owner_site
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _OF_THE_EXTRA:
            raise
        raise MissingPackage(f"the page needs {error.name}: pip install 'fedjob[page]'") from error
    outer_url = check_outer_url(url) if url else ""
    if outer_url and not (password or new_password):
        raise ConfigError("--url shows the page to others than you: add --password")
    home.check()
    if new_password or (password and not home.page_password.exists()):
        set_password(home.page_password, _asked())
    found = PagePassword(home.page_password) if password or new_password else None
    listener = listen_on_loopback(port)
    try:
        site = owner_site(home, port=int(listener.getsockname()[1]), outer_url=outer_url, password=found)
        serve_page(site, make_page_server(site), listener, outer_url=outer_url)
    finally:
        listener.close()
    click.echo("page ended")


def _asked() -> str:
    """Return the password that a person types twice, or the first line of what is piped in."""
    if sys.stdin.isatty():
        return str(click.prompt("Password of the page", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")
