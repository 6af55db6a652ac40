"""The commands `fedjob job ...` for the jobs of a home. Each command is imported when it is used."""

from __future__ import annotations

import click

from fedjob.common.console import LazyGroup

_HERE = "fedjob.researcher.cli"
_COMMANDS = {
    "submit": (f"{_HERE}.submit", "submit", "Start a job in a process of its own."),
    "check": (f"{_HERE}.submit", "check", "Ask the nodes whether a job may run, without starting it."),
    "estimate": (f"{_HERE}.submit", "estimate", "Print the bytes, time, memory and epsilon of a job."),
    "request": (f"{_HERE}.submit", "request", "Ask the nodes' owners to allow a job."),
    "list": (f"{_HERE}.show", "list_jobs", "List the jobs of this home, newest last."),
    "show": (f"{_HERE}.show", "show", "Show a job's definition, state and participants."),
    "why": (f"{_HERE}.show", "why", "Explain why a job waits or has ended, and whom to ask."),
    "wait": (f"{_HERE}.watch", "wait", "Wait for a job's end; the exit code is 0 if it completed."),
    "watch": (f"{_HERE}.watch", "watch", "Follow a job's events to its end."),
    "logs": (f"{_HERE}.watch", "logs", "Print the logs of a job's tasks that nodes have released."),
    "cancel": (f"{_HERE}.control", "cancel", "Withdraw a job that has not begun."),
    "stop": (f"{_HERE}.control", "stop", "End a running job after its current round, as completed."),
    "kill": (f"{_HERE}.control", "kill", "End a job at once, in any state."),
    "restart": (f"{_HERE}.control", "restart", "Run an ended job again, from its last breakpoint."),
    "resume-all": (f"{_HERE}.control", "resume_all", "Begin all submitted jobs again that nobody runs."),
    "clone": (f"{_HERE}.control", "clone", "Make a new draft with the fields of a job."),
    "result": (f"{_HERE}.result", "result", "Show a job's result, or write all its results to a folder."),
    "dossier": (f"{_HERE}.dossier", "write", "Write one signed file for a data protection officer."),
    "delete": (f"{_HERE}.control", "delete", "Delete a job here, at the hub and at the nodes."),
}


@click.group(cls=LazyGroup, commands_of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def job() -> None:
    """Submit, find, follow and end jobs."""
