"""The commands `fedjob node grants ...`: the owner's decisions on who may run what."""

from __future__ import annotations

import click

from fedjob.common.console import LazyGroup

_COMMANDS = {
    "list": (
        "fedjob.node.cli.grants_show",
        "list_",
        "List the requests of researchers and the decisions on them.",
    ),
    "show": (
        "fedjob.node.cli.grants_show",
        "show",
        "Show one request or grant; with --code the plan's text.",
    ),
    "approve": ("fedjob.node.cli.grants_decide", "approve", "Approve one request, within limits."),
    "reject": ("fedjob.node.cli.grants_decide", "reject", "Reject one request."),
    "allow": (
        "fedjob.node.cli.grants_decide",
        "allow",
        "Allow by patterns what researchers may ask for later.",
    ),
    "revoke": (
        "fedjob.node.cli.grants_decide",
        "revoke",
        "Withdraw an approval, and end the tasks that use it.",
    ),
    "project": ("fedjob.node.cli.grants_decide", "project", "Set limits for all jobs of a project."),
    "know": ("fedjob.node.cli.grants_decide", "know", "Record a researcher's key as known to you."),
    "researchers": (
        "fedjob.node.cli.grants_show",
        "researchers",
        "List the researchers whose keys are known.",
    ),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS)
def grants() -> None:
    """Decide who may run which training plan on which dataset."""
