"""`fedjob job`: the jobs of a home; and `fedjob verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.cli import json_option, show_rows
from fedjob.common.errors import FedjobError
from fedjob.researcher.cli.home import HOME

if TYPE_CHECKING:
    from fedjob.researcher.folder import JobFolder


@click.group()
def job() -> None:
    """Look at the jobs of this home."""


@job.command("list")
@HOME
@json_option
def list_jobs(home: Path | None, as_json: bool) -> None:
    """List the jobs of this home, newest last."""
    from fedjob.researcher.folder import JobFolder
    from fedjob.researcher.home import home_path
    from fedjob.researcher.record import load_record
    from fedjob.researcher.spec import load_spec

    rows = []
    jobs = home_path(home) / "jobs"
    for path in sorted(jobs.glob("job_*"), key=lambda p: p.stat().st_mtime) if jobs.is_dir() else ():
        folder = JobFolder(path)
        try:
            spec = load_spec(folder.spec)
        except FedjobError as error:
            rows.append(
                {"id": path.name, "name": "", "protocol": "", "state": "unreadable", "reason": str(error)}
            )
            continue
        record = load_record(folder.record)
        rows.append(
            {
                "id": spec.id,
                "name": spec.name,
                "protocol": spec.protocol.name,
                "state": record.state,
                "reason": record.reason,
            }
        )
    show_rows(rows, as_json, empty="no jobs in this home yet")


@job.command()
@click.argument("job_id")
@HOME
@json_option
def show(job_id: str, home: Path | None, as_json: bool) -> None:
    """Show a job's spec and record."""
    from dataclasses import asdict

    from fedjob.researcher.breakpoints import list_breakpoints
    from fedjob.researcher.home import find_job, home_path
    from fedjob.researcher.record import load_record
    from fedjob.researcher.spec import load_spec

    folder = find_job(home_path(home), job_id)
    spec, record = load_spec(folder.spec), load_record(folder.record)
    kept = [str(path) for path in list_breakpoints(folder.breakpoints)]
    if as_json:
        click.echo(
            json.dumps({"spec": asdict(spec), "record": asdict(record), "breakpoints": kept}, indent=2)
        )
        return
    for key, value in {
        "id": spec.id,
        "name": spec.name or "-",
        "protocol": spec.protocol.name,
        "plan": f"{spec.plan_entry} ({spec.plan_hash[:12]})",
        "nodes": ", ".join(spec.datasets) or "-",
        "rounds": spec.rounds,
        "state": record.state + (f" ({record.reason})" if record.reason else ""),
        "detail": record.detail or "-",
        "waits for": ", ".join(_waited_for(folder)) if record.state == "waiting" else "-",
        "newest breakpoint": kept[-1] if kept else "-",
    }.items():
        click.echo(f"{key:18} {value}")


def _waited_for(folder: JobFolder) -> list[str]:
    """Return the nodes whose owners have not decided, as the job last said."""
    from fedjob.researcher.events import read_events

    waiting: list[str] = []
    for event in read_events(folder.events):
        if event.type == "grant":
            waiting = event.body.get("waiting", [])
    return waiting


@click.command()
@click.argument("job")
@HOME
@json_option
def verify(job: str, home: Path | None, as_json: bool) -> None:
    """Compute every committed round of JOB again from its recorded replies."""
    from fedjob.researcher.home import find_job, home_path
    from fedjob.researcher.verify import verify_job

    checks = verify_job(find_job(home_path(home), job))
    show_rows(
        [{"round": c.round, "step": c.step, "verdict": c.verdict, "detail": c.detail} for c in checks],
        as_json,
    )
    equal = sum(check.verdict == "equal" for check in checks)
    bad = [check for check in checks if check.verdict == "different"]
    click.echo(f"{equal} of {len(checks)} folds recomputed to the same bytes", err=as_json)
    if bad:
        sys.exit(1)
