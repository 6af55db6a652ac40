"""The commands `fedjob job list`, `show` and `why`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.checks import MAX_IN_ROW, some_of
from fedjob.common.console import json_option, print_json, show_fact, show_rows
from fedjob.common.lifecycle import HISTORY
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.times import when_of_text
from fedjob.common.types import ENDLESS, rounds_text
from fedjob.researcher.cli.home import HOME, folder_of, job_argument

if TYPE_CHECKING:
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.record import JobRecord
    from fedjob.researcher.storage.spec import JobSpec


@click.command("list")
@click.argument("prefix", required=False)
@HOME
@click.option("-n", "--name", help="Only jobs with this name, or a pattern with *.")
@click.option("--state", help="Only jobs in a state, or in pending, active or history; several with commas.")
@click.option("-p", "--project", help="Only jobs of this project.")
@click.option("-r", "--reverse", is_flag=True, help="Newest first.")
@click.option("-m", "--max", "limit", type=click.IntRange(0), help="List only this number of the newest.")
@click.option("--token", help="Show the submission with this token, even if its job was deleted.")
@json_option
def list_jobs(
    prefix: str | None,
    home: Path | None,
    name: str | None,
    state: str | None,
    project: str | None,
    reverse: bool,
    limit: int | None,
    token: str | None,
    as_json: bool,
) -> None:
    """List the jobs of this home in order of submission, newest last.

    PREFIX is how a job's id begins. Drafts are listed with --state draft.

    \b
    fedjob job list --state active
    fedjob job list --name 'heart*' --max 10 --reverse
    """
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.runner.revival import look
    from fedjob.researcher.storage.search import find_entries

    where = home_path(home)
    if token is not None:
        show_rows(
            _submissions(where, token, project), as_json, empty=f"no submission has the token {token!r}"
        )
        return
    found = find_entries(
        where,
        id=prefix,
        name=name,
        state=None if state is None else state.split(","),
        project=project,
        limit=limit,
        reverse=reverse,
        look=look,
    )
    columns: tuple[str, ...] = ("id", "name", "project", "protocol", "state", "reason", "submitted")
    if as_json:
        columns += ("plan", "attempt", "rounds", "created", "started", "finished", "token", "cloned_from")
    rows = [{key: getattr(entry, key) for key in columns} for entry in found]
    for row in rows:
        if row.get("rounds") == ENDLESS:
            row["rounds"] = None
    if not as_json:
        for row in rows:
            row["submitted"] = when_of_text(row["submitted"])
    show_rows(
        rows,
        as_json,
        ids=("id",),
        empty=f"no jobs of {where} match: another home is named by --home or FEDJOB_HOME",
    )


def _submissions(home: Path, token: str, project: str | None) -> list[dict[str, Any]]:
    from fedjob.researcher.storage.submissions import list_submissions

    found = list_submissions(home, token)
    return [asdict(s) for s in found if project is None or s.project == project]


@click.command()
@job_argument
@HOME
@json_option
def show(job_id: str, home: Path | None, as_json: bool) -> None:
    """Show how a job is defined, where it stands and who took part.

    \b
    fedjob job show heart
    fedjob job show 0191 --json
    """

    from fedjob.researcher.runner.revival import look, runs
    from fedjob.researcher.storage.audit_heads import summaries
    from fedjob.researcher.storage.spec import load_spec

    folder = folder_of(home, job_id)
    spec, record = load_spec(folder.spec), look(folder)
    kept = sorted(str(path) for path in folder.breakpoints.glob("round_*"))
    chain = _chain(folder)
    with still_going_on("reading the job"):
        took_part = "" if as_json else _took_part(folder, spec, record)
    if as_json:
        print_json(
            {
                "spec": asdict(spec),
                "record": asdict(record),
                "breakpoints": kept,
                "cloned_from": chain,
                "audit": [asdict(each) for each in summaries(folder.audit_heads)],
            }
        )
        return
    took = _elapsed(record.started, record.finished)
    for key, value in {
        "id": spec.id,
        "name": spec.name or "-",
        "project": spec.project or "-",
        "protocol": spec.protocol.name,
        "plan": f"{spec.plan_entry} ({spec.plan_hash[:12]})" if spec.plan_hash else "-",
        "nodes": some_of(spec.datasets, MAX_IN_ROW) or "-",
        "rounds": rounds_text(spec.rounds),
        "state": record.state + (f" ({record.reason})" if record.reason else ""),
        "run by": _runner(folder, record.state, runs(folder, record)),
        "detail": record.detail or "-",
        "took part": took_part,
        "waits for": some_of(_waited_for(folder), MAX_IN_ROW) if record.state == "waiting" else "-",
        "created": when_of_text(record.created),
        "submitted": when_of_text(record.submitted),
        "submitted from": record.submitted_from or "-",
        "started": when_of_text(record.started),
        "finished": when_of_text(record.finished),
        "elapsed": f"{took:.1f} s" if took is not None else "-",
        "attempts": record.attempt,
        "cloned from": ", ".join(chain) or "-",
        "token": record.token or "-",
        "props": ", ".join(f"{k}={v}" for k, v in spec.props.items()) or "-",
        "newest breakpoint": kept[-1] if kept else "-",
        "privacy": _privacy(record),
        "audit logs": _audit_logs(folder),
    }.items():
        if value != "-":
            show_fact(key, str(value), 19)


def _privacy(record: JobRecord) -> str:
    """Return what the job has spent of differential privacy at each node, in words."""
    from fedjob.researcher.storage.record import privacy_in_words

    spent = [f"{node} {privacy_in_words(one)}" for node, one in sorted(record.privacy.items())]
    return some_of(spent, MAX_IN_ROW, between="; ") or "-"


def _audit_logs(folder: JobFolder) -> str:
    """Return what the replies showed of the nodes' audit logs, in words."""

    from fedjob.researcher.storage.audit_heads import summaries

    found = [
        f"{chain.node} {'CONTRADICTS ITSELF: ' + chain.contradictions[0] if chain.contradictions else chain.seq}"
        for chain in sorted(summaries(folder.audit_heads), key=lambda chain: not chain.contradictions)
    ]
    return some_of(found, MAX_IN_ROW, between="; ") or "-"


def _runner(folder: JobFolder, state: str, runs: bool) -> str:
    """Return which process runs a job, in words."""
    if state == "draft" or state in HISTORY:
        return "-"
    return f"process {folder.holder()}" if runs else "nobody: its runner died; the next look begins it again"


def _took_part(folder: JobFolder, spec: JobSpec, record: JobRecord) -> str:
    """Return which nodes count so far, and why others do not; nothing before anybody was asked."""
    from fedjob.researcher.monitoring.participation import participation_of
    from fedjob.researcher.storage.breakpoints import history_of, list_breakpoints
    from fedjob.researcher.storage.position import Position

    if not (record.participants or record.absent):
        return "-"
    newest = list_breakpoints(folder.breakpoints)[-1:]
    ledger = history_of(newest[0])[1] if newest else ()
    position = Position(round=ledger[-1].round, state={}, ledger=ledger) if ledger else None
    return str(participation_of(spec, record, position))


def _elapsed(started: str, finished: str) -> float | None:
    from fedjob.researcher.storage.record import seconds_between, utc_now

    return seconds_between(started, finished or utc_now()) if started else None


def _chain(folder: JobFolder) -> list[str]:
    """Return the ids of the jobs that a job was cloned from, the nearest first."""
    from fedjob.common.errors import FedjobError
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.spec import load_spec

    chain: list[str] = []
    while len(chain) < 20:
        try:
            above = load_spec(folder.spec).cloned_from
        except FedjobError:  # deleted: the chain ends with its id
            break
        if not above or above in chain:
            break
        chain.append(above)
        folder = JobFolder(folder.path.with_name(above))
    return chain


def _waited_for(folder: JobFolder) -> list[str]:
    """Return the nodes whose owners have not decided, as of the job's last `grant` event."""
    from fedjob.researcher.storage.event_log import read_events

    waiting: list[str] = []
    for event in read_events(folder.events):
        if event.type == "grant":
            waiting = event.body.get("waiting", waiting)
    return waiting


@click.command()
@job_argument
@HOME
@json_option
def why(job_id: str, home: Path | None, as_json: bool) -> None:
    """Explain why a job waits or has ended, and whom to ask.

    \b
    fedjob job why heart
    """
    from fedjob.researcher.monitoring.diagnosis import explain
    from fedjob.researcher.runner.revival import look, runs
    from fedjob.researcher.storage.event_log import read_events
    from fedjob.researcher.storage.spec import load_spec

    folder = folder_of(home, job_id)
    record = look(folder)
    with still_going_on("reading the job's events"):
        events = list(read_events(folder.events))
        reasons = explain(load_spec(folder.spec), record, events, runs=runs(folder, record))
    if as_json:
        print_json(asdict(reasons))
    else:
        click.echo(str(reasons))
