"""`fedjob node grants`: who may run what."""

from __future__ import annotations

import click

from fedjob.common.cli import LazyGroup

_COMMANDS = {
    "list": ("fedjob.node.cli.asked", "list_", "List what was asked for, and what was decided."),
    "show": ("fedjob.node.cli.asked", "show", "Show one grant; with --code the plan's text."),
    "approve": ("fedjob.node.cli.deciding", "approve", "Allow exactly this, within limits."),
    "reject": ("fedjob.node.cli.deciding", "reject", "Forbid it."),
    "allow": ("fedjob.node.cli.deciding", "allow", "Make a standing agreement by patterns."),
    "revoke": ("fedjob.node.cli.deciding", "revoke", "Take a yes back; what runs under it ends."),
    "project": ("fedjob.node.cli.deciding", "project", "Limit everything in a project."),
    "know": ("fedjob.node.cli.deciding", "know", "Note that a researcher's key is known."),
    "researchers": ("fedjob.node.cli.asked", "researchers", "List the researchers who are known."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS)
def grants() -> None:
    """Who may run which plan on which data."""
