"""The commands `fedjob node backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedjob.common.console import size
from fedjob.common.terminal.going_on import still_going_on
from fedjob.common.terminal.times import when
from fedjob.node.cli.home import home_option

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


LEAVE_OUT = ("spool/objects", "spool/tasks", "scratch", "logs", "brought", "lock")
"""What the daemon makes again: fetched objects, unfinished work, logs."""

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command("backup")
@_FILE
@home_option
def backup_command(file: Path, home: NodeHome) -> None:
    """Write the node's home into FILE, while it runs or not: keep it safe, it holds the node's keys.

    \b
    fedjob node backup node.backup
    """

    from fedjob.identity.home_backup import back_up

    home.check()
    with still_going_on(f"writing {file}"):
        made = back_up(home.root, file, role="node", leave_out=LEAVE_OUT)
    click.echo(
        f"{file}: node {made.party}, {made.num_files} files, {size(made.size_bytes)}; its mode is 0600"
    )


@click.command("restore")
@_FILE
@home_option
def restore_command(file: Path, home: NodeHome) -> None:
    """Make a node's home of the backup FILE; the folder must be empty, or not be there.

    \b
    fedjob node restore node.backup --home ~/.fedjob/node
    """

    from fedjob.identity.home_backup import restore

    with still_going_on(f"reading {file}"):
        made = restore(home.root, file, role="node")
    home.create()
    click.echo(
        f"{home.root}: node {made.party} as of {when(made.created)}. Start it only where no other copy of it runs: "
        f"fedjob node start --home {home.root}"
    )
