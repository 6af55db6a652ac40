"""The commands `fedjob node grants list`, `show` and `researchers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, print_json, show_rows, table, when
from fedjob.common.errors import FedjobError
from fedjob.common.types import rounds_text
from fedjob.node.cli.home import KnownText, home_option, open_database
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import SHA256_CHARS, Grant
from fedjob.node.grants.limits import describe_limits


@click.command("list")
@home_option
@click.option("--pending", is_flag=True, help="List only requests that wait for a decision.")
@json_option
def list_(home: NodeHome, pending: bool, as_json: bool) -> None:
    """List the requests of researchers, and the decisions on them."""
    with open_database(home) as database:
        found = Grants(database).all("pending" if pending else None)
    if as_json:
        print_json([grant.to_plain() for grant in found])
        return
    table(
        ("id", "status", "origin", "researcher", "dataset", "use", "plan", "sha256", "job", "asked"),
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
                when(g.requested),
            )
            for g in found
        ],
        empty="no request waits for a decision" if pending else "no researcher has requested anything yet",
    )


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--code", is_flag=True, help="Print the plan's text too, exactly as it would run.")
@json_option
def show(grant_id: str, home: NodeHome, code: bool, as_json: bool) -> None:
    """Show one request or grant: researcher, plan, dataset; with --code, the plan's text and its risks."""
    with open_database(home) as database:
        store = Grants(database)
        grant = store.get(grant_id)
        text = _text(store, grant)
        alike = _alike(store, grant, text)
        org = store.known.org_of(grant.subject.researcher, grant.subject.key_hex)
        dataset = Datasets(database).find(grant.subject.dataset)
    if as_json:
        plain = {**grant.to_plain(), "differs_only_in_form_from": "" if alike is None else alike.id}
        print_json({**plain, "code": text} if code else plain)
        return
    for key, value in _lines(grant, 0 if dataset is None else dataset.num_rows, org):
        click.echo(f"{key:<14}{printable(value) or '-'}")
    if not text:
        return
    from fedjob.training_plans.source.packages import imported_packages, missing_packages

    click.echo(f"{'imports':<14}{', '.join(imported_packages(text)) or '-'}")
    click.echo(f"{'not installed':<14}{', '.join(missing_packages(text)) or '-'}")
    if alike is not None:
        approved = f"approved on {when(alike.decided)} (grant {alike.id})"
        click.echo(f"{'compared':<14}only comments or formatting differ from the plan {approved}")
    if not code:
        lines = text.count("\n")
        click.echo(f"{'lines':<14}{lines}; read them: fedjob node grants show {grant.id} --code")
        return
    _print_code(text)


@click.command()
@home_option
@json_option
def researchers(home: NodeHome, as_json: bool) -> None:
    """List the researchers whose keys are known."""
    with open_database(home) as database:
        found = Grants(database).known.all()
    rows = [
        {
            "researcher": row["researcher"],
            "key": row["key_hex"],
            "org": row["org"],
            "known": row["known"] if as_json else when(row["known"]),
            "by": row["known_by"],
        }
        for row in found
    ]
    show_rows(rows, as_json, empty="no researcher is known yet: approving a request makes its key known")


def _lines(grant: Grant, num_rows: int, org: str | None) -> Iterator[tuple[str, str]]:
    subject, asked = grant.subject, grant.asked
    described = ", ".join(
        asked.owner.get(word, "") for word in ("name", "org", "role") if asked.owner.get(word)
    )
    yield "grant", grant.id
    yield "status", grant.status
    yield "origin", grant.origin
    yield "who", subject.researcher + (f" ({described})" if described else "")
    yield "key", subject.key_hex
    if grant.origin == "request":
        yield (
            "known",
            "no: no request signed with this key was approved yet"
            if org is None
            else f"yes, of {org or 'no organisation'}",
        )
    yield "when", when(grant.requested)
    yield "plan", "any plan" if asked.needs == ("data",) else subject.entry
    yield "hash", subject.plan or asked.reading
    yield "protocol", grant.protocol
    yield "data", subject.dataset + (f", {num_rows} rows" if num_rows else "")
    yield "version", subject.version[:16]
    yield "use", subject.use
    if asked.preprocess:
        yield "prepared by", asked.preprocess
    if asked.config:
        yield "settings", _settings(asked.config)
    yield "arguments", _settings({**asked.model_args, **asked.training_args})
    yield "rounds", rounds_text(asked.rounds)
    yield "nested plans", ", ".join(sha256[:16] for sha256 in asked.launches) or "none"
    yield "pool", str(asked.resources.get("pool", "") or "default")
    yield "project", subject.project or asked.project
    yield "job", " ".join(word for word in (asked.job, asked.job_name) if word)
    yield "note", asked.note
    if grant.decided is not None:
        yield "decided", f"{when(grant.decided)} by {grant.decided_by or 'time'}"
        yield "answer", grant.note
        yield "limits", "; ".join(describe_limits(grant.limits))
        yield (
            "used by",
            f"{grant.uses} job{'' if grant.uses == 1 else 's'}, {grant.rows_spent} rows{_predicted(grant)}",
        )
    if grant.rule:
        yield "agreement", grant.rule


def _predicted(grant: Grant) -> str:
    return f", {grant.inferences_spent} predictions" if grant.inferences_spent else ""


def _settings(given: Mapping[str, Any]) -> str:
    shown = (f"{name}={value!r}" for name, value in given.items() if value not in (None, [], {}))
    return ", ".join(shown)[:1000]


def _print_code(text: str) -> None:
    from fedjob.node.grants.plan_review import can_look_for_risks, numbered, remarks

    found = remarks(text)
    click.echo("")
    for line in numbered(text, found):
        click.echo("".join(c if c.isprintable() or c == "\t" else " " for c in line))
    click.echo("")
    risks = sum(remark.kind == "risk" for remark in found)
    click.echo(
        f"{risks} place{'' if risks == 1 else 's'} to look at twice; this list is a reading aid, no proof"
    )
    if not can_look_for_risks():
        click.echo("bandit is not installed, so fewer risks were searched for: pip install bandit")


def _text(store: Grants, grant: Grant) -> str:
    plan = grant.subject.plan or grant.asked.reading
    if len(plan) != SHA256_CHARS:
        return ""
    data = store.texts.of(plan)
    if data is None and grant.origin == "rule":
        return ""  # an agreement may name a hash whose text nobody has sent yet
    if data is None:
        raise FedjobError(
            f"the text of grant {grant.id} is damaged: reject it, and have the researcher request it again"
        )
    return data.decode()


def _alike(store: Grants, grant: Grant, text: str) -> Grant | None:
    """Return the newest approved grant whose text differs in comments or formatting only."""
    from fedjob.node.grants.plan_review import differs_only_in_form

    for other in store.approved_plans() if text else []:
        approved = store.texts.of(other.subject.plan)
        if approved is not None and differs_only_in_form(approved.decode(), text):
            return other
    return None
