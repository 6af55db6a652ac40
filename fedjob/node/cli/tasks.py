"""The commands `fedjob node tasks`, `logs` and `kill`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, table
from fedjob.common.lifecycle import State
from fedjob.common.terminal.tables import MIN_ID
from fedjob.common.terminal.times import in_utc, when
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.command()
@home_option
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only tasks in this state."
)
@click.option("--wide", is_flag=True, help="Whole ids, and step, worker, parent and duration too.")
@json_option
def tasks(home: NodeHome, state: str | None, wide: bool, as_json: bool) -> None:
    """List the tasks computed here, for whom, and how they ended.

    In a pipe the list is always a wide one.

    \b
    fedjob node tasks --state running
    fedjob node tasks --wide
    """

    from fedjob.node.queue.store import TaskStore

    with open_database(home) as database:
        found = TaskStore(database).list_tasks(state)
    if as_json:
        click.echo(json.dumps([in_utc(task) for task in found], indent=2))
        return
    columns = wide_row if wide or not sys.stdout.isatty() else short_row
    header = tuple(columns(found[0])) if found else ()
    table(header, [tuple(columns(task).values()) for task in found], empty="no tasks yet")


def short_row(task: Mapping[str, Any]) -> dict[str, str]:
    """Return what a terminal of 80 columns has room for, by column."""
    job = task["job_name"] or task["job"][:MIN_ID]
    return {
        "task": task["key"][:MIN_ID],
        "job": f"{job} of {task['researcher']}, round {task['round']}",
        "dataset": task["dataset"],
        "state": f"{task['state']}: {task['reason']}" if task["reason"] else task["state"],
        "accepted": when(task["accepted"]),
    }


def wide_row(task: Mapping[str, Any]) -> dict[str, str]:
    """Return all that is listed of a task, by column."""
    return {
        "task": task["key"],
        "job": task["job"],
        "name": task["job_name"],
        "round": str(task["round"]),
        "step": task["step"],
        "dataset": task["dataset"],
        "researcher": task["researcher"],
        "state": task["state"],
        "reason": task["reason"],
        "worker": str(task["worker"] or ""),
        "parent": task["parent"],
        "accepted": when(task["accepted"]),
        "took": f"{task['ended'] - task['accepted']:.2f} s" if task["ended"] else "",
    }


@click.command()
@click.argument("task", type=KnownText("task"))
@click.option("--release", is_flag=True, help="Send the log to the researcher of the task.")
@home_option
@json_option
def logs(task: str, release: bool, home: NodeHome, as_json: bool) -> None:
    """Show the output and traceback of a task's user code; with --release, send it to the researcher.

    \b
    fedjob node logs 5b21
    fedjob node logs 5b21 --release
    """

    from fedjob.node.owner.task_orders import release_log
    from fedjob.node.queue.store import TaskStore
    from fedjob.node.storage.logs import STREAMS, read_log

    with open_database(home) as database:
        store = TaskStore(database)
        found = store.find_task(task)
        written = {stream: read_log(home, found["key"], stream) for stream in STREAMS}
        released = release_log(home, database, found) if release else ""
    if as_json:
        click.echo(json.dumps({"task": found["key"], "job": found["job"], "released": release, **written}))
        return
    for stream in STREAMS:
        for line in written[stream]:
            click.echo(printable(line), err=stream == "stderr")
    if release:
        click.echo(released)


@click.command()
@click.argument("task", type=KnownText("task"))
@home_option
def kill(task: str, home: NodeHome) -> None:
    """End a task; its researcher is informed that the node's owner ended it.

    \b
    fedjob node kill 5b21
    """

    from fedjob.node.owner.task_orders import end_task

    with open_database(home) as database:
        click.echo(end_task(home, database, task))
