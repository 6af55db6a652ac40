"""The commands `fedjob node grants list`, `show` and `researchers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, print_json, show_fact, show_rows, table
from fedjob.common.terminal.times import in_utc, utc, when
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.grants.grant import Grant


@click.command("list")
@home_option
@click.option("--pending", is_flag=True, help="List only requests that wait for a decision.")
@json_option
def list_(home: NodeHome, pending: bool, as_json: bool) -> None:
    """List the requests of researchers, and the decisions on them.

    \b
    fedjob node grants list --pending
    """

    from fedjob.node.grants.decisions import Grants, burden_of
    from fedjob.node.owner.review import plain_price, price_for, short_price

    with open_database(home) as database:
        store = Grants(database)
        found = store.all("pending" if pending else None)
        waiting = [grant for grant in found if grant.status == "pending"]
        prices = {grant.id: price_for(store, grant, database) for grant in waiting}
        burdens = {grant.id: burden_of(grant, database) for grant in waiting}
    if as_json:
        costs = {id_: {} if one is None else one.to_plain() for id_, one in burdens.items()}
        more = {
            g.id: {"privacy": plain_price(prices.get(g.id)), "burden": costs.get(g.id, {})} for g in found
        }
        print_json([in_utc({**grant.to_plain(), **more[grant.id]}) for grant in found])
        return
    table(
        (
            "id",
            "status",
            "origin",
            "researcher",
            "dataset",
            "use",
            "plan",
            "sha256",
            "job",
            "privacy",
            "costs",
            "asked",
        ),
        [
            (
                g.id,
                g.status,
                g.origin,
                g.subject.researcher,
                g.subject.dataset or "-",
                g.subject.use,
                g.subject.entry or "-",
                g.subject.plan[:12] or "-",
                g.asked.job_name or "-",
                short_price(prices.get(g.id)),
                "-" if (burden := burdens.get(g.id)) is None else burden.short,
                when(g.requested),
            )
            for g in found
        ],
        ids=("id",),
        empty="no request waits for a decision" if pending else "no researcher has requested anything yet",
    )


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--code", is_flag=True, help="Print the plan's text too, exactly as it would run.")
@json_option
def show(grant_id: str, home: NodeHome, code: bool, as_json: bool) -> None:
    """Show one request or grant: researcher, plan, dataset; with --code, the plan's text and its risks.

    \b
    fedjob node grants show 3f9a --code
    """

    from fedjob.node.owner.review import review_of

    with open_database(home) as database:
        review = review_of(database, grant_id)
    if as_json:
        plain = in_utc(review.to_plain())
        print_json({**plain, "code": review.text} if code else plain)
        return
    for key, value in review.lines:
        show_fact(key, value or "-", 14)
    for number, line in enumerate(review.compared):
        show_fact("" if number else "differs", line, 14)
    if not review.text:
        return
    from fedjob.training_plans.source.packages import imported_packages, missing_packages

    click.echo(f"{'imports':<14}{', '.join(imported_packages(review.text)) or '-'}")
    click.echo(f"{'not installed':<14}{', '.join(missing_packages(review.text)) or '-'}")
    if review.alike is not None:
        approved = f"approved on {when(review.alike.decided)} (grant {review.alike.id})"
        click.echo(f"{'compared':<14}only comments or formatting differ from the plan {approved}")
    if not code:
        lines = review.text.count("\n")
        click.echo(f"{'lines':<14}{lines}; read them: fedjob node grants show {review.grant.id} --code")
        return
    _print_code(review.text)
    if (changes := review.changes) and review.before is not None:
        _print_changes(changes, review.before)


@click.command()
@home_option
@json_option
def researchers(home: NodeHome, as_json: bool) -> None:
    """List the researchers whose keys are known.

    \b
    fedjob node grants researchers
    """

    from fedjob.node.grants.decisions import Grants

    with open_database(home) as database:
        found = Grants(database).known.all()
    rows = [
        {
            "researcher": row["researcher"],
            "key": row["key_hex"],
            "org": row["org"],
            "known": utc(row["known"]) if as_json else when(row["known"]),
            "by": row["known_by"],
        }
        for row in found
    ]
    show_rows(rows, as_json, empty="no researcher is known yet: approving a request makes its key known")


def _print_changes(changes: list[str], before: Grant) -> None:
    from fedjob.node.grants.plan_review import visible

    click.echo("")
    click.echo(f"changes since the plan of grant {before.id}:")
    for line in changes:
        click.echo(visible(line))


def _print_code(text: str) -> None:
    from fedjob.node.grants.plan_review import can_look_for_risks, numbered, remarks

    found = remarks(text)
    click.echo("")
    for line in numbered(text, found):
        click.echo(line)
    click.echo("")
    risks = sum(remark.kind == "risk" for remark in found)
    click.echo(
        f"{risks} place{'' if risks == 1 else 's'} to look at twice; this list is a reading aid, no proof: "
        "what it can't see through may do anything that the worker may"
    )
    if not can_look_for_risks():
        click.echo("bandit is not installed, so fewer risks were searched for: pip install bandit")
