"""The commands `fedjob job submit`, `check` and `request`."""

from __future__ import annotations

import gc
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, print_json, show_rows
from fedjob.common.telemetry.logs import LOG_FORMATS
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.types import check_given
from fedjob.researcher.cli.home import HOME, folder_of

if TYPE_CHECKING:
    from fedjob.researcher.federation.offers import NodeAnswer
    from fedjob.researcher.jobs.estimate import Estimate
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.runner.plan_trial import PlanCheck

_WHAT = click.argument("what", metavar="FILE.py|SPEC|ID", type=str)
_STRICT = click.option(
    "--strict", is_flag=True, help="Refuse nodes that are not in the home's file known_nodes."
)


@click.command()
@_WHAT
@HOME
@click.option("--token", help="Name of this submission: submitting again with it finds the same job.")
@_STRICT
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    help="Format of the job's runner.log; json: one object a line.  [default: the home's setting log_format]",
)
@json_option
def submit(
    what: str, home: Path | None, token: str | None, strict: bool, log_format: str | None, as_json: bool
) -> None:
    """Start a job in a process of its own, and return.

    FILE.py is a script with a line `job = Job(...)`; SPEC a folder or a zip with a
    job.json; ID a draft of this home.

    \b
    fedjob job submit heart.py
    fedjob job submit heart.py --token heart-2026-11
    """
    if log_format is not None:
        os.environ["FEDJOB_LOG_FORMAT"] = log_format  # the runner inherits it
    job = _job(what, home, strict)
    with still_going_on("starting the job's process"):
        made = job.submit(token=token)
    if made.id != job.id:
        job.delete()  # the token belongs to an earlier job, so this draft is not needed
    if as_json:
        print_json({"id": made.id, "state": made.state, "name": made.name})
    else:
        click.echo(made.id)


@click.command()
@_WHAT
@HOME
@_STRICT
@click.option(
    "--plan-only",
    is_flag=True,
    help="Ask no node: run one batch of the plan here, on made-up rows with the columns that the nodes publish.",
)
@json_option
def check(what: str, home: Path | None, strict: bool, plan_only: bool, as_json: bool) -> None:
    """Ask every node whether the job may run there, without a request. The exit code is 1 if one refuses.

    \b
    fedjob job check heart.py
    fedjob job check heart.py --plan-only
    """
    job = _job(what, home, strict)
    try:
        with still_going_on("asking the nodes" if not plan_only else "running a batch of the plan"):
            checks = job.check(plan_only=True) if plan_only else job.check()
            cost = None if plan_only else job.estimate()
    finally:
        if Path(what).exists():
            job.delete()  # the draft was made for the check only
    if as_json:
        print_json(
            {"nodes": [asdict(check) for check in checks], "cost": None if cost is None else _sums_of(cost)}
        )
    else:
        show_rows([_row(check) for check in checks], False)
        if cost is not None:
            click.echo(cost.about, err=not sys.stdout.isatty())  # in a pipe there is the table alone
    if not checks.ok:
        sys.exit(1)


def _row(check: NodeAnswer | PlanCheck) -> dict[str, object]:
    from fedjob.researcher.runner.plan_trial import PlanCheck

    if isinstance(check, PlanCheck):
        return asdict(check)
    return {"node": check.node, "dataset": check.dataset, "grant": check.verdict, "workers": check.workers}


@click.command()
@_WHAT
@HOME
@_STRICT
@click.option(
    "--probe",
    is_flag=True,
    help="Time all lines; where nothing like it ran, its first rounds on the nodes' mocks, or a batch of made-up rows here.",
)
@json_option
def estimate(what: str, home: Path | None, strict: bool, probe: bool, as_json: bool) -> None:
    """Print what a job would cost at each node and in all: bytes, time, memory, differential privacy.

    \b
    fedjob job estimate heart.py
    fedjob job estimate heart.py --probe
    """
    job = _job(what, home, strict)
    try:
        with still_going_on("trying a part of it" if probe else "asking the nodes"):
            found = job.estimate(probe=probe)
    finally:
        if Path(what).exists():
            job.delete()  # the draft was made for the estimate only
    if as_json:
        print_json(
            {
                "nodes": [
                    {
                        name: None if isinstance(value, float) and not math.isfinite(value) else value
                        for name, value in asdict(one).items()
                    }
                    for one in found
                ],
                **_sums_of(found),
            }
        )
        return
    click.echo(repr(found))


def _sums_of(found: Estimate) -> dict[str, object]:
    """Return what a job would cost in all, as plain data."""
    return {
        "bytes_per_node": found.bytes_per_node,
        "bytes_total": found.bytes_total,
        "exact": found.exact,
        "time_s": found.time_s,
        "time_range_s": found.time_range_s,
        "memory_bytes": found.memory_bytes,
        "epsilon": found.epsilon,
    }


@click.command()
@_WHAT
@HOME
@_STRICT
@json_option
def request(what: str, home: Path | None, strict: bool, as_json: bool) -> None:
    """Ask the nodes' owners to allow the job; it stays a draft, which you submit later by its ID.

    \b
    fedjob job request heart.py
    """
    job = _job(what, home, strict)
    with still_going_on("asking the nodes"):
        filed = job.request()
    if as_json:
        print_json({"id": job.id, "grants": filed})
        return
    click.echo(job.id)
    show_rows(
        [{"node": node, "grant": grant} for node, grant in filed.items()], False, empty="no grant needed"
    )


def _job(what: str, home: Path | None, strict: bool) -> Job:
    """Return the draft that a script, a spec or an id names."""
    with still_going_on(f"reading {what}"):
        return _read_job(what, home, strict)


def _read_job(what: str, home: Path | None, strict: bool) -> Job:
    gc.disable()  # imports leave no garbage, and looking for it takes as long as a third of them
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.jobs.script import job_of_script
    from fedjob.researcher.jobs.session import connect

    gc.enable()
    check_given(what, "FILE.py, a folder or zip with a job.json, or the id of a draft")
    path = Path(what).expanduser()
    where = home_path(home)
    if path.suffix == ".py" and path.is_file():
        job = job_of_script(path.resolve(), where)
    elif path.exists():
        job = Job.from_json(path.resolve(), home=where)
    else:
        job = Job.open(folder_of(home, what).path)
    if not job.spec.local and job.requests is None:
        connect(home=where, strict=strict or None)
    return job
