"""The commands `fedjob node grants approve`, `reject`, `allow`, `revoke`, `project` and `know`."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable
from typing import Any

import click

from fedjob.common.checks import printable
from fedjob.common.config import load_config
from fedjob.common.console import json_option, print_json
from fedjob.common.errors import SpecError
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import KEY_PREFIX_CHARS, SHA256_CHARS, Grant, GrantSubject
from fedjob.node.grants.limits import LOGS, PREDICTIONS, describe_limits, parse_limits

_LIMIT_OPTIONS = (
    click.option(
        "--until", metavar="WHEN", help="End of the grant: a date, a time, or a duration such as 30d."
    ),
    click.option("--runs", type=int, metavar="N", help="Number of jobs that may use the grant."),
    click.option("--inferences", type=int, metavar="N", help="Number of predictions, over all jobs."),
    click.option("--rows", type=int, metavar="N", help="Number of rows computed on, over all tasks."),
    click.option(
        "--min-rows", type=int, metavar="K", help="Results computed on fewer rows do not leave the node."
    ),
    click.option(
        "--predictions",
        type=click.Choice(PREDICTIONS),
        help="Whether predictions for single rows may leave the node.",
    ),
    click.option(
        "--logs", type=click.Choice(LOGS), help="The part of a task's log that the researcher receives."
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME",
        help="A secret of the dataset that the plan may use; may be repeated.",
    ),
    click.option(
        "--arg",
        "args",
        multiple=True,
        metavar="NAME=MIN..MAX",
        help="What an argument may be, NAME=MIN..MAX or NAME=a,b; others stay as asked for; may be repeated.",
    ),
    click.option("--any-args", is_flag=True, help="Let the plan be given any arguments."),
    click.option(
        "--protection",
        "protections",
        multiple=True,
        metavar="NAME",
        help="A protection that jobs must have: secagg, secagg:5 for sums of 5 nodes or more, secagg:off for none, dp:3 or dp:3,1e-6 for "
        "differential privacy with such an epsilon and delta at most; may be repeated.",
    ),
)


def _limited(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that limit a grant to a command."""
    for option in reversed(_LIMIT_OPTIONS):
        command = option(command)
    return command


def _by_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--by", default=None, metavar="NAME", help="The person who decides; default the user of this system."
    )(command)


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--note", default="", help="Text that is sent to the researcher.")
@_by_option
@_limited
@json_option
def approve(grant_id: str, home: NodeHome, note: str, by: str | None, as_json: bool, **options: Any) -> None:
    """Approve request ID: this plan's text, for this researcher, on this dataset, within the limits given."""
    is_limited = any(value is not None and value is not False and value != () for value in options.values())
    limits = parse_limits(**options) if is_limited else None
    config = load_config(NodeConfig, home.root)
    with open_database(home) as database:
        store = Grants(database)
        asked = store.get(grant_id)
        grant = store.approve(
            asked.id,
            by=_who(by),
            note=note,
            limits=limits,
            approvers=config.approvers,
            version=_version(Datasets(database), asked),
            anybody=config.unknown == "allow",
        )
    if as_json:
        print_json(grant.to_plain())
        return
    if grant.status == "pending":
        click.echo(_waits_for_more(grant, config))
        return
    click.echo(f"approved: {_what(grant)}")
    if grant.subject.version != asked.subject.version and asked.subject.version:
        click.echo("the data have changed since the request; the approval is for the data as they are now")


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--reason", required=True, help="Text that is sent to the researcher.")
@_by_option
def reject(grant_id: str, home: NodeHome, reason: str, by: str | None) -> None:
    """Reject request ID, and send the reason to its researcher."""
    with open_database(home) as database:
        store = Grants(database)
        grant = store.reject(store.get(grant_id).id, by=_who(by), note=reason)
    subject = grant.subject
    click.echo(printable(f"rejected: {subject.entry} of {subject.researcher} on {subject.dataset}"))


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--reason", default="", help="Text that is sent to the researcher.")
@_by_option
def revoke(grant_id: str, home: NodeHome, reason: str, by: str | None) -> None:
    """Withdraw the approval of grant ID; tasks that use it end within a second."""
    with open_database(home) as database:
        store = Grants(database)
        grant = store.revoke(store.get(grant_id).id, by=_who(by), note=reason)
    click.echo(f"revoked: {_what(grant).replace(' may run ', ' may no longer run ', 1)}")


@click.command()
@home_option
@click.option("--who", required=True, help="Researcher: an id, key:FINGERPRINT, org:NAME, a pattern, or '*'.")
@click.option(
    "--plan", default=None, help="Plan: a hash, the class of an approved plan, FILE.py:CLASS, or fedjob.*."
)
@click.option("--data", default=None, help="Dataset: a name or a pattern.")
@click.option("--use", type=click.Choice(("private", "mock")), default="private", show_default=True)
@click.option("--project", help="Only jobs of this project.")
@click.option("--note", default="", help="Text that is sent to the researcher.")
@_by_option
@_limited
@json_option
def allow(
    home: NodeHome,
    who: str,
    plan: str | None,
    data: str | None,
    use: str,
    project: str | None,
    note: str,
    by: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a standing agreement: jobs that match its patterns run without a request of their own."""
    if use == "private" and (plan is None or data is None):
        raise SpecError(
            "--use private needs --plan and --data: name the plan and the dataset; '*' stands for any"
        )
    for option, text in (("who", who), ("plan", plan), ("data", data), ("project", project), ("by", by)):
        if text is not None:
            check_given(text, f"a value of --{option}")
    limits, config = parse_limits(**options), load_config(NodeConfig, home.root)
    with open_database(home) as database:
        store = Grants(database)
        sha256, entry = _plan(store, plan or "*")
        rule = GrantSubject(
            researcher=_checked_who(who),
            key_hex="",
            plan=sha256,
            entry=entry,
            dataset=_data(Datasets(database), data or "*"),
            use=use,
            project=project or "",
        )
        waited = {grant.id for grant in store.all("pending")}
        grant = store.allow(
            rule,
            limits=limits,
            by=_who(by),
            note=note,
            approvers=config.approvers,
            anybody=config.unknown == "allow",
        )
        answered = [g.id for g in store.all("granted") if g.id in waited and g.rule == grant.id]
    if as_json:
        print_json({**grant.to_plain(), "answered": answered})
        return
    if grant.status == "pending":
        click.echo(_waits_for_more(grant, config))
        return
    click.echo(f"allowed: {_what(grant)}; agreement {grant.id}")
    if not limits.args and not limits.any_args:
        click.echo("it names no arguments, so jobs may give any; --arg NAME=MIN..MAX binds them")
    if answered:
        click.echo(f"{len(answered)} waiting request{' is' if len(answered) == 1 else 's are'} granted by it")


@click.command()
@click.argument("name")
@home_option
@_by_option
@_limited
def project(name: str, home: NodeHome, by: str | None, **options: Any) -> None:
    """Set limits for all jobs of project NAME, beside each grant's own; `default` is for all others."""
    check_given(name, "the name of a project")
    limits = parse_limits(**options)
    with open_database(home) as database:
        Grants(database).projects.limit(name, limits, _who(by))
    click.echo(f"project {name}: {'; '.join(describe_limits(limits)) or 'no limits of its own'}")


@click.command()
@click.argument("researcher")
@home_option
@click.option("--key", required=True, metavar="HEX", help="Their public key, as they gave it to you.")
@click.option("--org", default="", help="The organisation that they belong to.")
@_by_option
def know(researcher: str, home: NodeHome, key: str, org: str, by: str | None) -> None:
    """Record that you know a researcher's key, so that agreements for several researchers cover them."""
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise SpecError("--key is a public key of 64 hex digits; the hub's `party list` shows it")
    check_given(researcher, "the name of a researcher")
    with open_database(home) as database:
        Grants(database).known.add(researcher, key, org, _who(by))
    click.echo(f"known: {researcher}, key {key[:16]}..." + (f", of {org}" if org else ""))


def _who(by: str | None) -> str:
    return check_given(getpass.getuser() if by is None else by, "a value of --by")[:80]


def _version(datasets: Datasets, grant: Grant) -> str | None:
    """Return the version of the dataset as it is now, which the approval is for."""
    dataset = datasets.find(grant.subject.dataset)
    if dataset is None or not grant.subject.version:
        return None
    return datasets.versions().of_parts(dataset.parts(grant.subject.use))


def _checked_who(who: str) -> str:
    if who.startswith("key:") and not re.fullmatch(rf"key:[0-9a-f]{{{KEY_PREFIX_CHARS},64}}", who):
        raise SpecError(f"--who key:HEX takes {KEY_PREFIX_CHARS} to 64 hex digits of the public key")
    if not who or who in ("key:", "org:"):
        raise SpecError("--who is a researcher's id, key:FINGERPRINT, org:NAME, or '*'")
    return who


def _data(datasets: Datasets, data: str) -> str:
    if not set(data) & set("*?["):
        datasets.get(data)  # a dataset that does not exist is a typing error
    return data


def _plan(store: Grants, words: str) -> tuple[str, str]:
    """Return hash (or pattern) and class of the plan that the option `--plan` names."""
    if words == "*":
        return "*", "*"
    if re.search(r"\.py(:|$)", words):
        return _plan_of_file(store, words)
    if re.fullmatch(rf"[0-9a-f]{{{SHA256_CHARS}}}", words):
        return words, ""
    found = store.texts.like(words)
    if len({sha256 for sha256, _ in found}) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{entry} {sha256[:12]}" for sha256, entry in found[:5])
        raise SpecError(f"--plan {words!r} matches several plans: {listed}; give more digits of the hash")
    operations = known_operations()
    if "." in words:
        from fedjob.node.grants.grant import matches_any

        if any(matches_any(words, operation) for operation in operations):
            return words, ""
        raise SpecError(f"--plan {words!r} matches no operation; known: {', '.join(operations)}")
    raise SpecError(
        f"--plan {words!r}: no request has this hash, and no approved plan has a class of this name; give "
        "its hash, FILE.py:CLASS, or a pattern of operations such as fedjob.train.*"
    )


def _plan_of_file(store: Grants, words: str) -> tuple[str, str]:
    import ast
    from pathlib import Path

    from fedjob.training_plans.source.extraction import extract
    from fedjob.training_plans.source.text_checks import decode_plan

    file, _, entry = words.partition(":")
    if not entry:
        try:
            tree = ast.parse(decode_plan(Path(file).read_bytes(), path=file))
        except (OSError, SyntaxError) as error:
            raise SpecError(f"--plan {file}: {error}") from error
        names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        if len(names) != 1:
            raise SpecError(f"--plan {file} has {len(names)} classes: name one as {file}:CLASS")
        entry = names[0]
    source = extract(f"{file}:{entry}")
    store.texts.keep(source.sha256, source.text.encode())
    return source.sha256, source.entry


def known_operations() -> list[str]:
    """Return the public names of the operations that can be computed here."""
    from fedjob.node.grants.question import operation_of
    from fedjob.protocols import PROTOCOLS

    return sorted(operation_of(PROTOCOLS.find(name)) for name in PROTOCOLS.names())


def _what(grant: Grant) -> str:
    """Return in words who may run what on which data, within which limits."""
    subject = grant.subject
    plan = (
        subject.entry if subject.entry not in ("", "*") else "any plan" if subject.plan in ("", "*") else ""
    )
    if len(subject.plan) == SHA256_CHARS:
        plan = f"plan {plan} ({subject.plan[:12]})".replace("  ", " ")
    elif subject.plan not in ("", "*"):
        plan = subject.plan
    who = "any known researcher" if subject.researcher == "*" else subject.researcher
    where = "any dataset" if subject.dataset == "*" else subject.dataset or "no data"
    limits = describe_limits(grant.limits)
    project = f" in project {subject.project}" if subject.project else ""
    text = f"{who} may run {plan} on {where} ({subject.use}){project}"
    return printable(text + ("; " + "; ".join(limits) if limits else ""))


def _waits_for_more(grant: Grant, config: NodeConfig) -> str:
    approvers = ", ".join(str(approval["by"]) for approval in grant.approvals)
    return (
        f"noted: {len(grant.approvals)} of {config.approvers} approvals of grant {grant.id} are given ({approvers}); "
        f"another person approves it with: fedjob node grants approve {grant.id} --by NAME"
    )
