"""The commands `fedjob node tasks`, `logs` and `kill`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, table
from fedjob.common.lifecycle import State
from fedjob.common.terminal.times import in_utc, when
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.command()
@home_option
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only tasks in this state."
)
@json_option
def tasks(home: NodeHome, state: str | None, as_json: bool) -> None:
    """List the tasks computed here, for whom, and how they ended.

    \b
    fedjob node tasks --state running
    """

    from fedjob.node.queue.store import TaskStore

    with open_database(home) as database:
        found = TaskStore(database).list_tasks(state)
    if as_json:
        click.echo(json.dumps([in_utc(task) for task in found], indent=2))
        return
    table(
        ("task", "job", "round", "step", "dataset", "researcher", "state", "reason", "accepted", "took"),
        [
            (
                task["key"][:12],
                task["job_name"] or task["job"],
                str(task["round"]),
                task["step"],
                task["dataset"],
                task["researcher"],
                task["state"],
                task["reason"] or "-",
                when(task["accepted"]),
                f"{task['ended'] - task['accepted']:.2f} s" if task["ended"] else "-",
            )
            for task in found
        ],
        empty="no tasks yet",
    )


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
