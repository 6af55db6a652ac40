"""The commands `fedjob node config ...`: the node's settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import json_option
from fedjob.common.errors import ConfigError
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.owner.settings import Changed


@click.group()
def config() -> None:
    """Show and change the node's settings."""


@config.command("show")
@home_option
@json_option
def config_show(home: NodeHome, as_json: bool) -> None:
    """Show every setting that is in force.

    \b
    fedjob node config show
    """

    from fedjob.node.owner.settings import shown_setting

    values = _in_force(home)
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        click.echo(f"{key} = {shown_setting(value)}")


@config.command("get")
@click.argument("key", type=KnownText("setting"))
@home_option
def config_get(key: str, home: NodeHome) -> None:
    """Print one setting that is in force.

    \b
    fedjob node config get approval
    """

    from fedjob.node.owner.settings import check_setting, shown_setting

    values = _in_force(home)
    check_setting(key)
    click.echo(shown_setting(values[key]))


@config.command("set", context_settings={"ignore_unknown_options": True})  # -1 is a value
@click.argument(
    "pairs", metavar="KEY VALUE [KEY VALUE]...", type=KnownText("setting"), nargs=-1, required=True
)
@home_option
def config_set(pairs: tuple[str, ...], home: NodeHome) -> None:
    """Change settings, those that belong together at once; a running node applies them within a second.

    \b
    fedjob node config set workers 2 approval on
    fedjob node config set gpus 0,1
    """

    from fedjob.node.owner.settings import set_settings

    if len(pairs) % 2:
        raise ConfigError(f"expected KEY VALUE [KEY VALUE]..., found {len(pairs)} words")
    with open_database(home) as database:
        change = set_settings(home, database, dict(zip(pairs[::2], pairs[1::2], strict=True)))
    _show(home, change)


@config.command("unset")
@click.argument("keys", type=KnownText("setting"), nargs=-1, required=True)
@home_option
def config_unset(keys: tuple[str, ...], home: NodeHome) -> None:
    """Take settings out of the file, so that their defaults hold; also those of unknown names.

    \b
    fedjob node config unset workers
    """

    from fedjob.node.owner.settings import unset_settings

    with open_database(home) as database:
        change = unset_settings(home, database, keys)
    _show(home, change, " (the default)")


def _show(home: NodeHome, change: Changed, aside: str = "") -> None:
    from fedjob.node.owner.settings import await_applied, shown_setting

    for fault in change.faults:
        click.echo(f"fedjob: another setting can't be read, so the strictest hold: {fault}", err=True)
    for key, value in change.values.items():
        click.echo(f"{key} = {shown_setting(value)}{aside}")
    await_applied(home, change)


def _in_force(home: NodeHome) -> dict[str, Any]:
    from fedjob.node.owner.settings import settings_in_force

    settings = settings_in_force(home)
    for fault in settings.faults:
        click.echo(f"fedjob: the settings can't be read, so the strictest hold: {fault}", err=True)
    return asdict(settings.config)
