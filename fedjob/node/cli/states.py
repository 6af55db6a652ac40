"""The commands `fedjob node state ...` and `fedjob node model ...`: what jobs keep here, and models that they may use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, size, table
from fedjob.common.errors import SpecError
from fedjob.common.files import remove_folder
from fedjob.common.terminal.going_on import still_going_on
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.group()
def state() -> None:
    """List or remove node states of jobs: optimizer states, control variates, personal layers."""


@state.command("list")
@home_option
@json_option
def state_list(home: NodeHome, as_json: bool) -> None:
    """List the jobs that keep node states here, and their sizes.

    \b
    fedjob node state list
    """

    from fedjob.node.queue.store import TaskStore

    with open_database(home) as database:
        kept = list(TaskStore(database).states())
    jobs: dict[str, list[int]] = {}
    for job, id_ in kept:
        path = home.state_of(job, id_)
        jobs.setdefault(job, []).append(path.stat().st_size if path.exists() else 0)
    rows = [
        {"job": job, "states": len(sizes), "size_bytes": sum(sizes)} for job, sizes in sorted(jobs.items())
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table(
        ("job", "states", "size"),
        [(str(row["job"]), str(row["states"]), size(sum(jobs[str(row["job"])]))) for row in rows],
        empty="no job keeps state here",
    )


@state.command("drop")
@click.argument("job", type=KnownText("job"))
@home_option
def state_drop(job: str, home: NodeHome) -> None:
    """Remove the node states of JOB; it continues with fresh ones, or fails if it requires one of them.

    \b
    fedjob node state drop job_0191
    """

    from fedjob.node.queue.store import TaskStore

    with open_database(home) as database:
        store = TaskStore(database)
        with database.transaction():
            gone = store.drop_states(job, ())
    if not gone:
        raise SpecError(f"{job} keeps no state here: `fedjob node state list` shows which do")
    remove_folder(home.states_of(job))
    click.echo(f"removed {len(gone)} node state{'' if len(gone) == 1 else 's'} of {job}")


@click.group()
def model() -> None:
    """Add, list and remove files of models, such as a published language model, that jobs may use by name."""


@model.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@home_option
def model_add(name: str, path: Path, home: NodeHome) -> None:
    """Let jobs use the safetensors file at PATH as NAME; it stays where it is and must stay as it is.

    \b
    fedjob node model add bert-small /models/bert-small.safetensors
    """

    from fedjob.node.data.models import OwnModels

    home.check()
    with still_going_on(f"reading {path}"):
        added = OwnModels(home.models).add(name, path)
    click.echo(f"added {added.name}, {size(added.size_bytes)}, sha256 {added.sha256}")


@model.command("list")
@home_option
@json_option
def model_list(home: NodeHome, as_json: bool) -> None:
    """List the models with the sha256 that a plan asks for them by.

    \b
    fedjob node model list
    """

    from fedjob.node.data.models import OwnModels

    home.check()
    found = OwnModels(home.models).all().values()
    rows = [
        {
            "name": one.name,
            "size_bytes": one.size_bytes,
            "sha256": one.sha256,
            "path": one.path,
            "problem": one.problem,
        }
        for one in found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table(
        ("name", "size", "sha256", "path", "problem"),
        [(one.name, size(one.size_bytes), one.sha256, one.path, one.problem) for one in found],
        empty="this node has no models: fedjob node model add NAME PATH",
    )


@model.command("remove")
@click.argument("name", type=KnownText("model"))
@home_option
def model_remove(name: str, home: NodeHome) -> None:
    """Forget the model NAME; its file stays where it is. Jobs that use it go on without this node.

    \b
    fedjob node model remove bert-small
    """

    from fedjob.node.data.models import OwnModels

    home.check()
    OwnModels(home.models).remove(name)
    click.echo(f"removed {name}; its file is where it was")
