"""The command line `fedjob`. Each role's commands are imported when they are used."""

from __future__ import annotations

import click

from fedjob._version import __version__
from fedjob.common.console import LazyGroup, run_command_line

_COMMANDS = {
    "demo": ("fedjob.demo", "demo", "Train on four nodes on this machine, in a minute."),
    "new": ("fedjob.starting_points.cli", "new", "Write a script that trains as it is, to begin with."),
    "doctor": (
        "fedjob.researcher.cli.federation",
        "doctor",
        "Check hub, broker rights, repository, clock and versions.",
    ),
    "verify": ("fedjob.researcher.cli.verify", "verify", "Compute every round of a job again, and compare."),
    "hub": ("fedjob.hub.cli", "hub", "Run a hub: the broker and file repository of a federation."),
    "node": ("fedjob.node.cli", "node", "Run a node: a site's data, its grants and its tasks."),
    "init": ("fedjob.researcher.cli.federation", "init", "Make a researcher's home."),
    "login": (
        "fedjob.researcher.cli.login",
        "login",
        "Log in at an OpenID provider, where nodes require it.",
    ),
    "logout": ("fedjob.researcher.cli.login", "logout", "Delete the login of this home."),
    "nodes": ("fedjob.researcher.cli.federation", "nodes", "List the nodes of the federation."),
    "data": ("fedjob.researcher.cli.federation", "data", "List the datasets that nodes offer."),
    "federation": (
        "fedjob.coordinator.cli",
        "federation",
        "Say who belongs to a federation: its keys, its roster, revocation.",
    ),
    "dossier": ("fedjob.researcher.cli.dossier", "dossier", "Check the dossier of a job, anywhere."),
    "page": ("fedjob.researcher.cli.page", "page", "Show the jobs of a home in a browser."),
    "job": ("fedjob.researcher.cli.jobs", "job", "Submit, find, follow and end jobs."),
}


@click.group(
    cls=LazyGroup,
    commands_of=_COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="fedjob")
@click.pass_context
def cli(context: click.Context) -> None:
    """Federated learning jobs: train on data that never leaves its owners.

    Without a command fedjob says what to do next in the homes of this user.
    """
    if context.invoked_subcommand is None:
        from fedjob.first_screen import show_first_screen

        show_first_screen()


def main(args: list[str] | None = None) -> None:
    """Run the command line; an error of fedjob is shown as one line, never as a traceback."""
    run_command_line(cli, args, prog_name="fedjob")


if __name__ == "__main__":
    main()
