"""`fedjob node`: make, run and look after a node. Each command is imported when it is used."""

from __future__ import annotations

import click

from fedjob.common.cli import LazyGroup

_COMMANDS = {
    "init": ("fedjob.node.cli.life", "init", "Make a node's home and join a federation."),
    "start": ("fedjob.node.cli.life", "start", "Run the node until it is told to stop."),
    "stop": ("fedjob.node.cli.life", "stop", "Stop the running node."),
    "status": ("fedjob.node.cli.life", "status", "Show whether it runs, its queue, its workers."),
    "data": ("fedjob.node.cli.data", "data", "The datasets that this node offers."),
    "grants": ("fedjob.node.cli.grants", "grants", "Who may run which plan on which data."),
    "audit": ("fedjob.node.cli.audit", "audit", "What happened here: one record for each change, chained."),
    "tasks": ("fedjob.node.cli.tasks", "tasks", "List what was computed here, and for whom."),
    "logs": ("fedjob.node.cli.tasks", "logs", "What a task's user code wrote; release it."),
    "kill": ("fedjob.node.cli.tasks", "kill", "End a task."),
    "state": ("fedjob.node.cli.states", "state", "What jobs keep here between rounds."),
    "secrets": ("fedjob.node.cli.secrets", "secrets", "What plans may use here and never let out."),
    "config": ("fedjob.node.cli.config", "config", "The node's settings."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Run a node: data, grants, tasks."""
