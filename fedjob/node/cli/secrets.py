"""The commands `fedjob node secrets ...`: passwords and keys that approved plans may use but never send."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, table
from fedjob.common.errors import SpecError
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.group()
def secrets() -> None:
    """Store passwords and keys that a plan may use with a dataset, if its grant names them."""


@secrets.command("set")
@click.argument("dataset", type=KnownText("dataset"))
@click.argument("name")
@home_option
def secrets_set(dataset: str, name: str, home: NodeHome) -> None:
    """Store secret NAME of DATASET; its value is prompted for, or read from standard input.

    \b
    fedjob node secrets set heart password
    """

    from fedjob.node.data.datasets import Datasets
    from fedjob.node.storage.secrets import Secrets

    check_given(name, "the name of a secret")
    with open_database(home) as database:
        if Datasets(database).find(dataset) is None:
            raise SpecError(f"there is no dataset {dataset}: `fedjob node data list` shows which there are")
    if sys.stdin.isatty():
        value = click.prompt("Value", hide_input=True)
    else:
        value = sys.stdin.read().rstrip("\n")
    Secrets(home.secrets).set(dataset, name, value)
    click.echo(
        f"stored {name} for {dataset}: allow a plan to use it with `grants approve ID --secret {name}`"
    )


@secrets.command("list")
@home_option
@json_option
def secrets_list(home: NodeHome, as_json: bool) -> None:
    """List the names of secrets, never their values.

    \b
    fedjob node secrets list
    """

    from fedjob.node.storage.secrets import Secrets

    home.check()
    rows = [
        (dataset, name)
        for dataset, own in sorted(Secrets(home.secrets).all().items())
        for name in sorted(own)
    ]
    if as_json:
        click.echo(json.dumps([{"dataset": dataset, "name": name} for dataset, name in rows], indent=2))
        return
    table(("dataset", "name"), rows, empty="this node stores no secrets")


@secrets.command("remove")
@click.argument("dataset", type=KnownText("dataset"))
@click.argument("name")
@home_option
def secrets_remove(dataset: str, name: str, home: NodeHome) -> None:
    """Remove secret NAME of DATASET.

    \b
    fedjob node secrets remove heart password
    """

    from fedjob.node.storage.secrets import Secrets

    home.check()
    Secrets(home.secrets).remove(dataset, name)
    click.echo(f"removed {name} of {dataset}")
