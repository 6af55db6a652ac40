"""The commands `fedjob node grants ...`: the owner's decisions on who may run what."""

from __future__ import annotations

import click

from fedjob.common.cli import LazyGroup

_COMMANDS = {
    "list": ("fedjob.node.cli.asked", "list_", "List the requests of researchers and the decisions on them."),
    "show": ("fedjob.node.cli.asked", "show", "Show one request or grant; with --code the plan's text."),
    "approve": ("fedjob.node.cli.deciding", "approve", "Approve one request, within limits."),
    "reject": ("fedjob.node.cli.deciding", "reject", "Reject one request."),
    "allow": ("fedjob.node.cli.deciding", "allow", "Allow by patterns what researchers may ask for later."),
    "revoke": ("fedjob.node.cli.deciding", "revoke", "Withdraw an approval, and end the tasks that use it."),
    "project": ("fedjob.node.cli.deciding", "project", "Set limits for all jobs of a project."),
    "know": ("fedjob.node.cli.deciding", "know", "Record a researcher's key as known to you."),
    "researchers": ("fedjob.node.cli.asked", "researchers", "List the researchers whose keys are known."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS)
def grants() -> None:
    """Decide who may run which training plan on which dataset."""
