"""The commands `fedjob node ...` of a node's owner. Each command is imported when it is used."""

from __future__ import annotations

import click

from fedjob.common.console import LazyGroup

_COMMANDS = {
    "init": ("fedjob.node.cli.daemon", "init", "Make a node's home and join a federation."),
    "join": ("fedjob.node.cli.join", "join", "Make a node of an invitation: home, checks and start."),
    "start": ("fedjob.node.cli.daemon", "start", "Run the node until `node stop`, SIGTERM or Ctrl-C."),
    "stop": ("fedjob.node.cli.daemon", "stop", "Stop the running node."),
    "status": ("fedjob.node.cli.daemon", "status", "Show whether the node runs, its queue and its workers."),
    "doctor": (
        "fedjob.node.cli.doctor",
        "doctor",
        "Check this machine, the way to the hub, the hub and the node.",
    ),
    "data": ("fedjob.node.cli.data", "data", "Add, list and remove the datasets that this node offers."),
    "grants": (
        "fedjob.node.cli.grants",
        "grants",
        "Decide who may run which training plan on which dataset.",
    ),
    "budget": (
        "fedjob.node.cli.budget",
        "budget",
        "Set how much privacy jobs may spend on a dataset, and show what was spent.",
    ),
    "model": (
        "fedjob.node.cli.states",
        "model",
        "Add, list and remove files of models that jobs use by name.",
    ),
    "notify": ("fedjob.node.cli.notify", "notify", "Send the owner a notice as a test."),
    "audit": ("fedjob.node.cli.audit", "audit", "Show or verify the log of every grant and task."),
    "tasks": ("fedjob.node.cli.tasks", "tasks", "List the tasks computed here, and for whom."),
    "logs": ("fedjob.node.cli.tasks", "logs", "Show the output of a task's user code, or release it."),
    "kill": ("fedjob.node.cli.tasks", "kill", "End a running task."),
    "state": (
        "fedjob.node.cli.states",
        "state",
        "List or remove the states that jobs keep here between rounds.",
    ),
    "secrets": (
        "fedjob.node.cli.secrets",
        "secrets",
        "Store passwords and keys that approved plans may use.",
    ),
    "backup": ("fedjob.node.cli.backup", "backup_command", "Write the node's home into one file."),
    "restore": ("fedjob.node.cli.backup", "restore_command", "Make a node's home of a backup."),
    "page": (
        "fedjob.node.page.cli",
        "page",
        "Show requests, data, tasks and the audit log in a browser, and decide there.",
    ),
    "config": ("fedjob.node.cli.config", "config", "Show and change the node's settings."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Run a node: a site's data, the grants for researchers, and the tasks computed here."""
