"""A page that is served for as long as its command runs: its links are printed, one more for each Enter."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any, Protocol

import click


class LinkedPage(Protocol):
    """A page that gives links which open it once."""

    def link(self) -> str: ...


def serve_page(site: LinkedPage, server: Any, listener: socket.socket, *, outer_url: str = "") -> None:
    """Serve a page until Ctrl-C or SIGTERM, and print how it is opened.

    Args:
        server: of the page, see `common.pages.site.make_page_server`.
        listener: the socket that it is served at; who opened it closes it.
        outer_url: address under which others may sign in; empty for none.
    """
    with server.capture_signals():  # whoever reads the link may end the page at once
        click.echo(f"page ready: {site.link()}")
        if outer_url:
            click.echo(f"behind {outer_url}: people sign in there")
        click.echo("the link opens the page once; Enter prints another one, Ctrl-C ends the page")
        sys.stdout.flush()
        threading.Thread(target=_print_links, args=(site,), daemon=True).start()
        server.run(sockets=[listener])


def _print_links(site: LinkedPage) -> None:
    """Print a link for each Enter at the terminal."""
    if not sys.stdin.isatty():
        return
    for _ in sys.stdin:
        click.echo(f"page: {site.link()}")
        sys.stdout.flush()
