"""The commands `fedjob node grants approve`, `reject`, `allow`, `revoke`, `project` and `know`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.config import load_config
from fedjob.common.console import json_option, print_json
from fedjob.common.errors import SpecError
from fedjob.common.terminal.times import in_utc
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database
from fedjob.node.config.limit_words import LOGS, PREDICTIONS

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.owner.approvals import Decided


_LIMIT_OPTIONS = (
    click.option(
        "--until", metavar="WHEN", help="End of the grant: a date, a time, or a duration such as 30d."
    ),
    click.option("--runs", type=int, metavar="N", help="Number of jobs that may use the grant."),
    click.option("--inferences", type=int, metavar="N", help="Number of predictions, over all jobs."),
    click.option("--rows", type=int, metavar="N", help="Number of rows computed on, over all tasks."),
    click.option(
        "--moved-mb", type=int, metavar="N", help="Megabytes that jobs fetch and store here, all together."
    ),
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
    """Approve request ID: this plan's text, for this researcher, on this dataset, within the limits given.

    \b
    fedjob node grants approve 3f9a --until 30d --runs 5
    fedjob node grants approve 3f9a --protection secagg:3 --arg lr=0.001..0.1 --logs none
    """

    from fedjob.node.config.config import NodeConfig
    from fedjob.node.owner.approvals import approve_request

    config = load_config(NodeConfig, home.root)
    with open_database(home) as database:
        _show(approve_request(database, config, grant_id, by=by, note=note, **options), as_json)


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--reason", required=True, help="Text that is sent to the researcher.")
@_by_option
def reject(grant_id: str, home: NodeHome, reason: str, by: str | None) -> None:
    """Reject request ID, and send the reason to its researcher.

    \b
    fedjob node grants reject 3f9a --reason 'no approval of the ethics board yet'
    """

    from fedjob.node.owner.approvals import reject_request

    with open_database(home) as database:
        _show(reject_request(database, grant_id, by=by, reason=reason))


@click.command()
@click.argument("grant_id", metavar="ID", type=KnownText("grant"))
@home_option
@click.option("--reason", default="", help="Text that is sent to the researcher.")
@_by_option
def revoke(grant_id: str, home: NodeHome, reason: str, by: str | None) -> None:
    """Withdraw the approval of grant ID; tasks that use it end within a second.

    \b
    fedjob node grants revoke 3f9a --reason 'the study has ended'
    """

    from fedjob.node.owner.approvals import revoke_grant

    with open_database(home) as database:
        _show(revoke_grant(database, grant_id, by=by, reason=reason))


@click.command()
@home_option
@click.option("--who", required=True, help="Researcher: an id, key:FINGERPRINT, org:NAME, a pattern, or '*'.")
@click.option(
    "--plan", default=None, help="Plan: a hash, the class of an approved plan, FILE.py:CLASS, or fedjob.*."
)
@click.option("--data", default=None, type=KnownText("dataset"), help="Dataset: a name or a pattern.")
@click.option(
    "--use",
    type=click.Choice(("private", "mock")),
    default="private",
    show_default=True,
    help="The data themselves, or their mock.",
)
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
    """Make a standing agreement: jobs that match its patterns run without a request of their own.

    \b
    fedjob node grants allow --who alice --plan 'fedjob.*' --data heart --until 30d
    fedjob node grants allow --who org:acme --use mock
    """

    from fedjob.node.config.config import NodeConfig
    from fedjob.node.owner.approvals import make_agreement

    config = load_config(NodeConfig, home.root)
    with open_database(home) as database:
        decided = make_agreement(
            database,
            config,
            who=who,
            plan=plan,
            data=data,
            use=use,
            project=project,
            by=by,
            note=note,
            **options,
        )
    _show(decided, as_json, answered=list(decided.answered))


@click.command()
@click.argument("name", type=KnownText("project"))
@home_option
@_by_option
@_limited
def project(name: str, home: NodeHome, by: str | None, **options: Any) -> None:
    """Set limits for all jobs of project NAME, beside each grant's own; `default` is for all others.

    \b
    fedjob node grants project trial-7 --runs 20 --min-rows 50
    """

    from fedjob.node.grants.deciders import decider
    from fedjob.node.grants.decisions import Grants
    from fedjob.node.grants.limits import describe_limits, parse_limits

    check_given(name, "the name of a project")
    limits = parse_limits(**options)
    with open_database(home) as database:
        Grants(database).projects.limit(name, limits, decider(by))
    click.echo(f"project {name}: {'; '.join(describe_limits(limits)) or 'no limits of its own'}")


@click.command()
@click.argument("researcher")
@home_option
@click.option("--key", required=True, metavar="HEX", help="Their public key, as they gave it to you.")
@click.option("--org", default="", help="The organisation that they belong to.")
@_by_option
def know(researcher: str, home: NodeHome, key: str, org: str, by: str | None) -> None:
    """Record that you know a researcher's key, so that agreements for several researchers cover them.

    \b
    fedjob node grants know alice --key 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f --org acme
    """

    from fedjob.node.grants.deciders import decider
    from fedjob.node.grants.decisions import Grants

    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise SpecError("--key is a public key of 64 hex digits; the hub's `party list` shows it")
    check_given(researcher, "the name of a researcher")
    with open_database(home) as database:
        Grants(database).known.add(researcher, key, org, decider(by))
    click.echo(f"known: {researcher}, key {key[:16]}..." + (f", of {org}" if org else ""))


def _show(decided: Decided, as_json: bool = False, **more: Any) -> None:
    if as_json:
        print_json({**in_utc(decided.grant.to_plain()), **more})
        return
    for line in decided.lines:
        click.echo(line)
