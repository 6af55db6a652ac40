"""The researcher's commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.errors import FedjobError

if TYPE_CHECKING:
    from fedjob.researcher.folder import JobFolder

HOME = click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="The researcher's home.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@HOME
@click.option("--id", "party", required=True, help="Your id in the federation.")
@click.option(
    "--invite", type=click.Path(exists=True, dir_okay=False), help="The invitation file from the hub's owner."
)
@click.option("--hub", help="URL of a hub on this machine.")
@click.option(
    "--tls-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the hub's own authority, where it has one; keep the file where it is.",
)
def init(home: Path | None, party: str, invite: str | None, hub: str | None, tls_ca: Path | None) -> None:
    """Make a researcher's home: a key pair, and membership in a federation."""
    from fedjob.researcher.home import home_path
    from fedjob.researcher.session import join

    if hub is None and invite is None:
        raise click.UsageError("give --hub URL for a hub on this machine, or --invite FILE for any other")
    folder = home_path(home)
    membership, _ = join(folder, hub=hub, id=party, invite=invite, tls_ca=tls_ca)
    click.echo(f"{membership.party} is a researcher of {membership.federation}; home: {folder}")


@click.command()
@HOME
@JSON
def nodes(home: Path | None, as_json: bool) -> None:
    """List the nodes of the federation and whether they answer."""
    from fedjob.researcher.session import connect

    with connect(home=home) as session:
        found = session.nodes()
    _show(
        [
            {"id": n.id, "online": n.online, "version": n.version, "datasets": n.num_datasets, "busy": n.busy}
            for n in found
        ],
        as_json,
        empty="no nodes are enrolled: fedjob node init --id NAME --hub URL",
    )


@click.command()
@HOME
@click.option("--tags", default="", help="Only datasets with all of these tags, comma separated.")
@JSON
def data(home: Path | None, tags: str, as_json: bool) -> None:
    """List the datasets that nodes offer."""
    from fedjob.researcher.session import connect

    with connect(home=home) as session:
        found = session.datasets(tags=[tag.strip() for tag in tags.split(",") if tag.strip()])
    _show(
        [
            {"node": d.node, "name": d.name, "tags": ",".join(d.tags), "rows": d.num_rows, "reader": d.reader}
            for d in found
        ],
        as_json,
        empty="no datasets found: fedjob node data add NAME PATH --tags ... at a node that runs",
    )


@click.command()
@click.argument("job")
@HOME
@JSON
def verify(job: str, home: Path | None, as_json: bool) -> None:
    """Compute every committed round of JOB again from its recorded replies."""
    from fedjob.researcher.home import find_job, home_path
    from fedjob.researcher.verify import verify_job

    checks = verify_job(find_job(home_path(home), job))
    _show(
        [{"round": c.round, "step": c.step, "verdict": c.verdict, "detail": c.detail} for c in checks],
        as_json,
    )
    equal = sum(check.verdict == "equal" for check in checks)
    bad = [check for check in checks if check.verdict == "different"]
    click.echo(f"{equal} of {len(checks)} folds recomputed to the same bytes", err=as_json)
    if bad:
        sys.exit(1)


@click.group()
def job() -> None:
    """Look at the jobs of this home."""


@job.command("list")
@HOME
@JSON
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
    _show(rows, as_json, empty="no jobs in this home yet")


@job.command()
@click.argument("job_id")
@HOME
@JSON
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
            waiting = event.data.get("waiting", [])
    return waiting


@click.command()
@HOME
@JSON
def doctor(home: Path | None, as_json: bool) -> None:
    """Check hub, broker rights, repository, clock and versions; say what to do."""
    from fedjob.researcher.doctor import examine
    from fedjob.researcher.home import home_path

    findings = examine(home_path(home))
    _show([{"check": f.check, "ok": f.ok, "found": f.found, "do": f.advice} for f in findings], as_json)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _show(rows: Sequence[dict[str, Any]], as_json: bool, *, empty: str = "nothing to show") -> None:
    """Print rows: JSON where it is asked for, a table in a terminal, tab-separated lines in a pipe."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, default=str))
    elif not rows:
        click.echo(empty)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*rows[0].keys(), box=None, header_style="bold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        Console().print(table)
    else:
        click.echo("\t".join(rows[0].keys()))
        for row in rows:
            click.echo("\t".join(_cell(value) for value in row.values()))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
