"""The command `fedjob verify`, which aggregates every committed round of a job again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, show_rows
from fedjob.common.errors import ConfigError
from fedjob.common.files import by_users_umask, write_atomic
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME, folder_of, job_argument

if TYPE_CHECKING:
    from fedjob.researcher.storage.folder import JobFolder


@click.command()
@job_argument
@HOME
@click.option(
    "--heads",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the signed heads of the nodes' audit logs to a file, for their owners and for auditors.",
)
@json_option
def verify(job_id: str, home: Path | None, heads: Path | None, as_json: bool) -> None:
    """Aggregate every committed round of a job again from its recorded replies, and compare.

    Compare also what the replies said of their nodes' audit logs: whether one was rewritten or cut back meanwhile.
    The exit code is 0 if every round gave the same bytes and no audit log contradicts itself, 1 if not, or if a
    round could not be computed again; a secure sum never can be, and its total is compared alone.

    \b
    fedjob verify heart
    fedjob verify job_0191 --heads heads.jsonl
    """

    from fedjob.researcher.storage.audit_heads import summaries

    folder = folder_of(home, job_id)
    chains = summaries(folder.audit_heads)
    if heads is not None:
        _write_heads(folder, heads)
    for chain in chains:
        for contradiction in chain.contradictions:
            click.echo(printable(f"{chain.node}: {contradiction}"), err=True)
    rewritten = [chain.node for chain in chains if chain.contradictions]
    with still_going_on("aggregating every round again"):
        from fedjob.researcher.rounds.verification import SECURE, verify_job

        checks = verify_job(folder)
    show_rows(
        [{"round": c.round, "step": c.step, "verdict": c.verdict, "detail": c.detail} for c in checks],
        as_json,
    )
    equal = sum(check.verdict == "equal" for check in checks)
    sums = sum(check.verdict == SECURE for check in checks)
    more = f"; {sums} are secure sums, which nobody can compute again" if sums else ""
    click.echo(f"{equal} of {len(checks)} aggregations recomputed to the same bytes{more}", err=as_json)
    if chains:
        click.echo(
            f"{len(chains) - len(rewritten)} of {len(chains)} audit logs without a contradiction: "
            + "; ".join(f"{c.node} {c.count} heads, the newest {c.seq} {c.hash[:16]}" for c in chains),
            err=as_json,
        )
    if equal + sums < len(checks) or rewritten:
        sys.exit(1)


def _write_heads(folder: JobFolder, path: Path) -> None:
    from fedjob.researcher.storage.audit_heads import read_heads

    if path.exists():
        raise ConfigError(f"{path} exists already: choose another name")
    found = read_heads(folder.audit_heads)
    if not found:
        raise ConfigError(
            f"{folder.path.name} holds no heads of audit logs: they come with the replies of remote nodes"
        )
    with by_users_umask():
        write_atomic(path, "".join(head.to_line() + "\n" for head in found).encode(), mode=0o666)
    nodes = ", ".join(sorted({head.node for head in found}))
    click.echo(
        f"{len(found)} heads of {nodes} written to {path}; each node's owner checks them with "
        f"`fedjob node audit verify --against {path.name}`",
        err=True,
    )
