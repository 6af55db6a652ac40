"""`fedjob node tasks`: what is and was computed here."""

from __future__ import annotations

import json

import click

from fedjob.common.cli import json_option, table, when
from fedjob.node.cli.home import home_option, open_database
from fedjob.node.settings import NodeHome
from fedjob.node.taskstore import TaskStore


@click.command()
@home_option
@click.option("--state", help="Only tasks in this state: accepted, running, done, failed, cancelled.")
@json_option
def tasks(home: NodeHome, state: str | None, as_json: bool) -> None:
    """List what was computed here, for whom, and what came of it."""
    with open_database(home) as database:
        found = TaskStore(database).list_tasks(state)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table(
        ("task", "job", "round", "step", "dataset", "researcher", "status", "reason", "accepted", "took"),
        [
            (
                task["key"][:12],
                task["job"],
                str(task["round"]),
                task["step"],
                task["dataset"],
                task["researcher"],
                task["status"],
                task["reason"] or "-",
                when(task["accepted"]),
                f"{task['ended'] - task['accepted']:.2f} s" if task["ended"] else "-",
            )
            for task in found
        ],
        empty="no tasks yet",
    )
