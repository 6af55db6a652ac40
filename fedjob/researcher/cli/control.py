"""The commands `fedjob job cancel`, `stop`, `kill`, `restart`, `clone` and `delete`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fedjob.common.console import json_option, show_rows
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME, folder_of, job_argument


@click.command()
@job_argument
@HOME
def cancel(job_id: str, home: Path | None) -> None:
    """Withdraw a job that waits or is queued; a job that has begun continues, and the exit code is 1.

    \b
    fedjob job cancel heart
    """
    from fedjob.researcher.runner.control import cancel
    from fedjob.researcher.storage.transitions import notice

    folder = folder_of(home, job_id)
    with still_going_on("withdrawing the job"):
        is_cancelled = cancel(folder)
    if is_cancelled:
        click.echo(f"{folder.path.name} cancelled")
        return
    state = notice(folder).state
    hint = "" if state in ("completed", "draft") else "; fedjob job kill ends a job that has begun"
    click.echo(f"fedjob: {folder.path.name} is {state}: there is nothing to cancel{hint}", err=True)
    sys.exit(1)


@click.command()
@job_argument
@HOME
def stop(job_id: str, home: Path | None) -> None:
    """End a running job after its current round; the parameters so far are its result.

    \b
    fedjob job stop heart
    """
    from fedjob.researcher.runner.control import stop
    from fedjob.researcher.storage.transitions import notice

    folder = folder_of(home, job_id)
    if stop(folder):
        click.echo(f"{folder.path.name} ends after its round")
        return
    click.echo(f"fedjob: {folder.path.name} is {notice(folder).state}: there is nothing to stop", err=True)
    sys.exit(1)


@click.command()
@job_argument
@HOME
def kill(job_id: str, home: Path | None) -> None:
    """End a job at once, in any state; if it has ended before, nothing changes and the exit code is 1.

    \b
    fedjob job kill heart
    """
    from fedjob.researcher.runner.control import kill
    from fedjob.researcher.storage.transitions import notice

    folder = folder_of(home, job_id)
    with still_going_on("ending the job"):
        killed = kill(folder)
    state = notice(folder).state
    if killed:
        click.echo(f"{folder.path.name} {state}")
        return
    click.echo(f"fedjob: {folder.path.name} is {state}: there is nothing to kill", err=True)
    sys.exit(1)


@click.command()
@job_argument
@HOME
@click.option(
    "--from", "breakpoint", help="Breakpoint to start from, by its folder or its round; default the last."
)
@click.option("--rounds", type=click.IntRange(1), help="New total number of rounds.")
def restart(job_id: str, home: Path | None, breakpoint: str | None, rounds: int | None) -> None:
    """Run a job that has ended again, as its next attempt, from its last breakpoint.

    \b
    fedjob job restart heart
    fedjob job restart heart --from 5 --rounds 20
    """
    begin: str | int | None = breakpoint
    if breakpoint is not None and breakpoint.isdigit():
        begin = int(breakpoint)
    with still_going_on("starting the job's process"):
        from fedjob.researcher.jobs.job import Job

        job = Job.open(folder_of(home, job_id).path).restart(begin, rounds)
    click.echo(f"{job.id} attempt {job.attempts}")


@click.command("resume-all")
@HOME
@click.option(
    "--lost", is_flag=True, help="Restart also jobs that were found lost before, because their runners died."
)
@json_option
def resume_all(home: Path | None, lost: bool, as_json: bool) -> None:
    """Begin all submitted jobs of this home again that nobody runs, as after a reboot.

    Jobs that waited go on waiting; jobs that had begun continue from their last
    breakpoint, as their next attempt. Jobs of job.run() are reported only: they
    ended with their process.

    \b
    fedjob job resume-all
    """
    from dataclasses import asdict

    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.runner.revival import resume_all

    where = home_path(home)
    with still_going_on("starting the jobs' processes"):
        found = resume_all(where, lost=lost)
    show_rows(
        [asdict(one) for one in found], as_json, empty=f"every job of {where} has ended or is being run"
    )


@click.command()
@job_argument
@HOME
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the copy; VALUE is JSON.",
)
@click.option("--submit", "submit_it", is_flag=True, help="Submit it, too.")
def clone(job_id: str, home: Path | None, changes: tuple[str, ...], submit_it: bool) -> None:
    """Make a new draft with the fields of a job, except those changed with --set.

    \b
    fedjob job clone heart --set rounds=20 --submit
    """
    changed = _parsed(changes)
    with still_going_on("starting the copy" if submit_it else "copying the job"):
        from fedjob.researcher.jobs.job import Job

        made = Job.open(folder_of(home, job_id).path).clone(**changed)
        if submit_it:
            _connect(made, home)
            made.submit()
    click.echo(made.id)


def _parsed(changes: tuple[str, ...]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals:
            raise click.UsageError(f"--set takes FIELD=VALUE, not {change!r}")
        try:
            parsed[field] = json.loads(text)
        except ValueError:
            parsed[field] = text
    return parsed


def _connect(job: Any, home: Path | None) -> None:
    from fedjob.researcher.jobs.session import connect

    if not job.spec.local:
        connect(home=home)


@click.command()
@job_argument
@HOME
def delete(job_id: str, home: Path | None) -> None:
    """Delete a job that has ended, here, at the hub and at the nodes; its submission stays recorded.

    \b
    fedjob job delete heart
    """
    from fedjob.researcher.jobs.deletion import delete_job
    from fedjob.researcher.jobs.session import Session, connect

    def reach() -> Session:
        session = connect(home=home)
        session.reach()
        return session

    folder = folder_of(home, job_id)
    with still_going_on("deleting the job here, at the hub and at the nodes"):
        delete_job(folder, reach)
    click.echo(f"{folder.path.name} deleted")
