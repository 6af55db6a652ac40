"""The command line: `fedjob`. Each role's commands are imported when they are used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from fedjob import __version__

_COMMANDS = {
    "demo": ("fedjob.demo", "demo", "Train on four nodes on this machine, in a minute."),
    "doctor": (
        "fedjob.researcher.cli",
        "doctor",
        "Check hub, broker rights, repository, clock and versions.",
    ),
    "verify": ("fedjob.researcher.cli", "verify", "Fold every committed round of a job again."),
    "hub": ("fedjob.hub.cli", "hub", "Run a federation's hub: broker and file repository."),
    "node": ("fedjob.node.cli", "node", "Run a node: data, grants, tasks."),
    "init": ("fedjob.researcher.cli", "init", "Make a researcher's home."),
    "nodes": ("fedjob.researcher.cli", "nodes", "List the nodes of the federation."),
    "data": ("fedjob.researcher.cli", "data", "List the datasets that nodes offer."),
    "job": ("fedjob.researcher.cli", "job", "Look at the jobs of this home."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedjob")
def cli() -> None:
    """Federated learning jobs: train on data that never leaves its owners."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; a mistake of the user's is one line, never a traceback."""
    from fedjob.common.errors import BrokerUnreachable, FedjobError, NotPermitted, RepositoryUnreachable

    try:
        cli(args)
    except (BrokerUnreachable, RepositoryUnreachable, NotPermitted) as error:
        click.echo(f"fedjob: {error}", err=True)
        sys.exit(2)
    except FedjobError as error:
        click.echo(f"fedjob: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
