"""`fedjob job`: the jobs of a home. Each command is imported when it is used."""

from __future__ import annotations

import click

from fedjob.common.cli import LazyGroup

_HERE = "fedjob.researcher.cli"
_COMMANDS = {
    "submit": (f"{_HERE}.submit", "submit", "Hand a job over to a process of its own."),
    "check": (f"{_HERE}.submit", "check", "Ask the nodes whether a job may run; leave nothing."),
    "request": (f"{_HERE}.submit", "request", "Ask the nodes' owners to allow a job."),
    "list": (f"{_HERE}.look", "list_jobs", "List the jobs of this home, newest last."),
    "show": (f"{_HERE}.look", "show", "Show a job's spec and record."),
    "why": (f"{_HERE}.look", "why", "Say why a job is not further than it is, and whom to ask."),
    "wait": (f"{_HERE}.follow", "wait", "Wait for a job's end; the exit code tells how it ended."),
    "watch": (f"{_HERE}.follow", "watch", "Follow a job's events to its end."),
    "logs": (f"{_HERE}.follow", "logs", "Print what tasks wrote, as far as their nodes let it out."),
    "cancel": (f"{_HERE}.verbs", "cancel", "Withdraw a job that has not begun."),
    "stop": (f"{_HERE}.verbs", "stop", "End a running job after its round, as completed."),
    "kill": (f"{_HERE}.verbs", "kill", "End a job wherever it stands."),
    "restart": (f"{_HERE}.verbs", "restart", "Begin the next attempt, from the last breakpoint."),
    "clone": (f"{_HERE}.verbs", "clone", "Make a new draft of a job."),
    "result": (f"{_HERE}.result", "result", "Show a job's result, or fetch everything it has to show."),
    "delete": (f"{_HERE}.verbs", "delete", "Delete a job, here, at the hub and at the nodes."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def job() -> None:
    """Submit jobs, find them, follow them, end them."""
