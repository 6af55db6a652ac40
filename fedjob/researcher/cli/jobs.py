"""The commands `fedjob job ...` for the jobs of a home. Each command is imported when it is used."""

from __future__ import annotations

import click

from fedjob.common.console import LazyGroup

_HERE = "fedjob.researcher.cli"
_COMMANDS = {
    "submit": (f"{_HERE}.submit", "submit", "Start a job in a process of its own."),
    "check": (f"{_HERE}.submit", "check", "Ask the nodes whether a job may run, without starting it."),
    "request": (f"{_HERE}.submit", "request", "Ask the nodes' owners to allow a job."),
    "list": (f"{_HERE}.look", "list_jobs", "List the jobs of this home, newest last."),
    "show": (f"{_HERE}.look", "show", "Show a job's spec and record."),
    "why": (f"{_HERE}.look", "why", "Explain why a job waits or has ended, and whom to ask."),
    "wait": (f"{_HERE}.follow", "wait", "Wait for a job's end; the exit code is 0 if it completed."),
    "watch": (f"{_HERE}.follow", "watch", "Follow a job's events to its end."),
    "logs": (f"{_HERE}.follow", "logs", "Print the logs of a job's tasks that nodes have released."),
    "cancel": (f"{_HERE}.verbs", "cancel", "Withdraw a job that has not begun."),
    "stop": (f"{_HERE}.verbs", "stop", "End a running job after its current round, as completed."),
    "kill": (f"{_HERE}.verbs", "kill", "End a job at once, in any state."),
    "restart": (f"{_HERE}.verbs", "restart", "Run an ended job again, from its last breakpoint."),
    "clone": (f"{_HERE}.verbs", "clone", "Make a new draft with the fields of a job."),
    "result": (f"{_HERE}.result", "result", "Show a job's result, or write all its results to a folder."),
    "delete": (f"{_HERE}.verbs", "delete", "Delete a job here, at the hub and at the nodes."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def job() -> None:
    """Submit, find, follow and end jobs."""
