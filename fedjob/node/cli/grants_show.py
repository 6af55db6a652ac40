"""The commands `fedjob node grants list`, `show` and `researchers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from fedjob.common.checks import printable
from fedjob.common.codec import to_plain
from fedjob.common.console import json_option, print_json, show_rows, table, when
from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.items import Items
from fedjob.common.types import rounds_text
from fedjob.node.cli.home import KnownText, home_option, open_database
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, RegisteredDataset
from fedjob.node.grants.contract import deviations
from fedjob.node.grants.decisions import Grants, approved_before
from fedjob.node.grants.grant import SHA256_CHARS, Grant
from fedjob.node.grants.limits import describe_limits
from fedjob.node.grants.permissions import price_of
from fedjob.node.grants.question_words import (
    entries_in_words,
    question_in_words,
    settings_in_words,
    shown_name,
)
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import Quote
from fedjob.node.storage.database import Database


@click.command("list")
@home_option
@click.option("--pending", is_flag=True, help="List only requests that wait for a decision.")
@json_option
def list_(home: NodeHome, pending: bool, as_json: bool) -> None:
    """List the requests of researchers, and the decisions on them."""
    with open_database(home) as database:
        store = Grants(database)
        found = store.all("pending" if pending else None)
        prices = {grant.id: _price(store, grant, database) for grant in found if grant.status == "pending"}
    if as_json:
        print_json([{**grant.to_plain(), "privacy": _plain_price(prices.get(grant.id))} for grant in found])
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
                _short_price(prices.get(g.id)),
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
        price = _price(store, grant, database)
        before = approved_before(store, grant)
        min_rows = _min_rows(store, grant, dataset)
        earlier = "" if before is None else _text(store, before)
    question = _question(grant, min_rows)
    if as_json:
        plain = {
            **grant.to_plain(),
            "question_in_words": question,
            "privacy": _plain_price(price),
            "differs_from": "" if before is None else before.id,
            "differences": [] if before is None else _differences(before, grant),
            "differs_only_in_form_from": "" if alike is None else alike.id,
        }
        print_json({**plain, "code": text} if code else plain)
        return
    about = _lines(grant, 0 if dataset is None else dataset.num_rows, org, question)
    for key, value in (*about, *_price_lines(price)):
        click.echo(f"{key:<14}{printable(value) or '-'}")
    for number, line in enumerate(_compared(before, grant)):
        click.echo(f"{'' if number else 'differs':<14}{printable(line)}")
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
    if earlier and earlier != text and before is not None:
        _print_changes(earlier, text, before)


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


def _lines(grant: Grant, num_rows: int, org: str | None, question: str) -> Iterator[tuple[str, str]]:
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
    if grant.origin == "request":
        yield "question", question
    yield "plan", "any plan" if asked.needs == ("data",) else subject.entry
    yield "hash", subject.plan or asked.reading
    yield "protocol", grant.protocol
    yield "data", subject.dataset + (f", {num_rows} rows" if num_rows else "")
    yield "version", subject.version[:16]
    yield "use", subject.use
    if asked.preprocess:
        yield "prepared by", asked.preprocess
    yield from _titled("settings", settings_in_words(grant.protocol, asked) if grant.protocol else [])
    arguments = entries_in_words(asked.model_args) + entries_in_words(asked.training_args)
    yield from _titled("arguments", arguments or ["-"])
    yield from _titled("properties", entries_in_words(asked.props))
    yield from _titled("items", entries_in_words(_chosen(asked.items)))
    yield from _titled("split", entries_in_words(asked.split))
    yield from _titled("sends along", _hashed(asked.artifacts))
    yield from _titled("uses models", _hashed(asked.models))
    if asked.files:
        yield "brings", f"data of its own, sha256 {asked.files[:16]}"
    yield from _titled("protected by", _protections(asked.protect))
    yield "rounds", rounds_text(asked.rounds)
    yield "nested plans", ", ".join(sha256[:16] for sha256 in asked.launches) or "none"
    yield "pool", str(asked.resources.get("pool", "") or "default")
    if asked.gpus is not None:
        yield "gpus", ", ".join(str(number) for number in asked.gpus) or "no GPU"
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


def _hashed(files: Mapping[str, str]) -> list[str]:
    return [f"{shown_name(name)}, sha256 {sha256[:16]}" for name, sha256 in files.items()]


def _protections(protect: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {', '.join(entries_in_words({k: v for k, v in settings.items() if v is not None}))}"
        for name, settings in protect.items()
    ]


def _price(store: Grants, grant: Grant, database: Database) -> Quote | str | None:
    """Return what a request would cost in differential privacy, or why it can't run so; None for none."""
    dataset = Datasets(database).find(grant.subject.dataset)
    try:
        limits = store.projects.limits_of(grant.subject.project)
        return price_of(grant, limits, dataset, PrivacyAccounts(database))
    except SpecError as error:
        return str(error)


def _plain_price(price: Quote | str | None) -> dict[str, Any]:
    if price is None:
        return {}
    return {"refusal": price} if isinstance(price, str) else {**price.to_plain(), "refusal": price.refusal}


def _short_price(price: Quote | str | None) -> str:
    if not isinstance(price, Quote):
        return "-" if price is None else "not possible"
    if price.refusal:
        return f"{price.cost:.3g}, too much"
    return f"{price.cost:.3g}" + (f", then {price.after:.3g} left" if price.budget is not None else "")


def _price_lines(price: Quote | str | None) -> Iterator[tuple[str, str]]:
    if price is not None:
        yield "costs", price if isinstance(price, str) else price.words


def _predicted(grant: Grant) -> str:
    return f", {grant.inferences_spent} predictions" if grant.inferences_spent else ""


def _titled(title: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield lines under one title; nothing of what is asked is cut off."""
    for number, line in enumerate(lines):
        yield "" if number else title, line


def _chosen(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job says of the items, where that is not what every job has."""
    usual = to_plain(Items())
    return {name: value for name, value in items.items() if value != usual.get(name)}


def _question(grant: Grant, min_rows: int) -> str:
    if grant.origin != "request":
        return ""
    if grant.asked.needs == ("data",):
        return "whatever the researcher would run on these data: one decision for all of it"
    return question_in_words(grant.protocol, grant.subject.entry, grant.asked, min_rows)


def _min_rows(store: Grants, grant: Grant, dataset: RegisteredDataset | None) -> int:
    """Return how many rows a number has to be made of here, whoever set it."""
    of_data = 0 if dataset is None or grant.subject.use != "private" else dataset.min_rows
    of_project = store.projects.limits_of(grant.subject.project).min_rows
    return max(of_data, of_project, grant.limits.min_rows)


def _compared(before: Grant | None, grant: Grant) -> Iterator[str]:
    """Yield how a request differs from the newest that was approved for the same researcher."""
    if grant.origin != "request":
        return
    if before is None:
        yield "nothing like it was approved for this researcher's key before"
        return
    found = _differences(before, grant)
    what = f"{len(found)} way{'' if len(found) == 1 else 's'}" if found else "no way"
    yield f"in {what} from grant {before.id}, approved on {when(before.decided)}"
    yield from found


def _differences(before: Grant, grant: Grant) -> list[str]:
    found = [str(one) for one in deviations(before.asked, grant.asked)]
    if before.subject.plan != grant.subject.plan:
        found.append(f"the plan's text is another, approved was {before.subject.plan[:16]}")
    if before.subject.entry != grant.subject.entry:
        found.append(f"the plan's class is {grant.subject.entry}, approved was {before.subject.entry}")
    if before.subject.version != grant.subject.version:
        found.append("the data have changed since")
    return found


def _print_changes(earlier: str, text: str, before: Grant) -> None:
    from fedjob.node.grants.plan_review import difference, visible

    click.echo("")
    click.echo(f"changes since the plan of grant {before.id}:")
    for line in difference(earlier, text):
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
