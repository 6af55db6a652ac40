"""The command `fedjob page`: the researcher's page in a browser, for as long as it runs."""

from __future__ import annotations

from pathlib import Path

import click

from fedjob.researcher.cli.home import HOME


@click.command()
@HOME
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of this machine's loopback; default a free one.",
)
def page(home: Path | None, port: int) -> None:
    """Show the jobs of a home in a browser: states, metrics, rounds, results, and jobs side by side.

    The page is served on this machine alone. The link that is printed opens it once; Enter prints another one.

    \b
    fedjob page
    fedjob page --home ~/trial --port 8124
    """
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.jobs.session import job_orders, page_site

    module = page_site()
    from fedjob.common.pages.site import listen_on_loopback
    from fedjob.common.terminal.served_page import serve_page

    where = home_path(home)
    listener = listen_on_loopback(port)
    try:
        site = module.ResearcherSite(where, job_orders(where), port=int(listener.getsockname()[1]))
        serve_page(site, site.make_server(), listener)
    finally:
        listener.close()
    click.echo("page ended")
