"""`fedjob node grants`: who may run what."""

from __future__ import annotations

import getpass
import json

import click

from fedjob.common.cli import clean, json_option, table, when
from fedjob.common.errors import FedjobError
from fedjob.node.cli.home import home_option, open_database
from fedjob.node.grants import Grant, Grants
from fedjob.node.settings import NodeHome


@click.group()
def grants() -> None:
    """Who may run which plan on which data."""


@grants.command("list")
@home_option
@click.option("--pending", is_flag=True, help="Only what waits for a decision.")
@json_option
def grants_list(home: NodeHome, pending: bool, as_json: bool) -> None:
    """List what was asked for, and what was decided."""
    with open_database(home) as database:
        found = Grants(database).all("pending" if pending else None)
    if as_json:
        click.echo(json.dumps([grant.to_plain() for grant in found], indent=2))
        return
    table(
        ("id", "status", "researcher", "dataset", "use", "plan", "sha256", "job", "asked"),
        [
            (
                g.id,
                g.status,
                g.subject.researcher,
                g.subject.dataset,
                g.subject.use,
                g.subject.entry,
                g.subject.plan[:12] or "-",
                g.job_name or "-",
                when(g.requested),
            )
            for g in found
        ],
        empty="nothing waits for a decision" if pending else "nobody has asked for anything yet",
    )


@grants.command("show")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--code", is_flag=True, help="Print the plan's text: what would run, byte for byte.")
@json_option
def grants_show(grant_id: str, home: NodeHome, code: bool, as_json: bool) -> None:
    """Show one grant."""
    with open_database(home) as database:
        store = Grants(database)
        grant = store.get(grant_id)
        text = _text(store, grant) if grant.subject.plan else ""
    if as_json:
        plain = grant.to_plain()
        click.echo(json.dumps({**plain, "code": text} if code else plain, indent=2))
        return
    if code and text:
        click.echo(text, nl=not text.endswith("\n"))
        return
    plain = grant.to_plain()
    plain.update(requested=when(grant.requested), decided=when(grant.decided))
    for key, value in plain.items():
        click.echo(f"{key:<14}{clean(str(value or '-'))}")
    if text:
        from fedjob.common.plans.source import imported_packages, missing_packages

        click.echo(f"{'imports':<14}{', '.join(imported_packages(text)) or '-'}")
        click.echo(f"{'not installed':<14}{', '.join(missing_packages(text)) or '-'}")
        click.echo(
            f"{'lines':<14}{text.count(chr(10))}; read them: fedjob node grants show {grant.id} --code"
        )


@grants.command("approve")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--note", default="", help="The researcher will read it.")
def grants_approve(grant_id: str, home: NodeHome, note: str) -> None:
    """Allow exactly this text, for this researcher, on this dataset."""
    grant = _decide(home, grant_id, approve=True, note=note)
    what = f"plan {grant.subject.entry} ({grant.subject.plan[:12]})" if grant.subject.plan else grant.protocol
    click.echo(
        f"approved: {grant.subject.researcher} may run {what} on {grant.subject.dataset} ({grant.subject.use})"
    )


@grants.command("reject")
@click.argument("grant_id", metavar="ID")
@home_option
@click.option("--reason", required=True, help="The researcher will read it.")
def grants_reject(grant_id: str, home: NodeHome, reason: str) -> None:
    """Forbid it."""
    grant = _decide(home, grant_id, approve=False, note=reason)
    click.echo(f"rejected: {grant.subject.entry} of {grant.subject.researcher} on {grant.subject.dataset}")


def _decide(home: NodeHome, grant_id: str, *, approve: bool, note: str) -> Grant:
    with open_database(home) as database:
        store = Grants(database)
        return store.decide(store.get(grant_id).id, approve=approve, note=note, by=getpass.getuser())


def _text(store: Grants, grant: Grant) -> str:
    data = store.text_of(grant.subject.plan)
    if data is None:
        raise FedjobError(
            f"the text of grant {grant.id} is damaged: reject it, and let it be asked for again"
        )
    return data.decode()
