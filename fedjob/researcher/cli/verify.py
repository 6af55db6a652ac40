"""The command `fedjob verify`, which aggregates every committed round of a job again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedjob.common.console import json_option, show_rows
from fedjob.researcher.cli.home import HOME, folder_of, job_argument


@click.command()
@job_argument
@HOME
@json_option
def verify(job_id: str, home: Path | None, as_json: bool) -> None:
    """Aggregate every committed round of a job again from its recorded replies, and compare.

    The exit code is 0 if every round gave the same bytes, 1 if one did not or could not be computed again.
    """
    from fedjob.researcher.rounds.verification import verify_job

    checks = verify_job(folder_of(home, job_id))
    show_rows(
        [{"round": c.round, "step": c.step, "verdict": c.verdict, "detail": c.detail} for c in checks],
        as_json,
    )
    equal = sum(check.verdict == "equal" for check in checks)
    click.echo(f"{equal} of {len(checks)} aggregations recomputed to the same bytes", err=as_json)
    if equal < len(checks):
        sys.exit(1)
