"""The commands `fedjob node config ...`: the node's settings."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import click

from fedjob.common.config import load_config, set_config
from fedjob.common.console import json_option
from fedjob.common.errors import ConfigError
from fedjob.node.cli.home import home_option
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome


@click.group()
def config() -> None:
    """Show and change the node's settings."""


@config.command("show")
@home_option
@json_option
def config_show(home: NodeHome, as_json: bool) -> None:
    """Show every setting."""
    values = asdict(load_config(NodeConfig, home.root))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        click.echo(f"{key} = {value}")


@config.command("get")
@click.argument("key")
@home_option
def config_get(key: str, home: NodeHome) -> None:
    """Print one setting."""
    values = asdict(load_config(NodeConfig, home.root))
    if key not in values:
        raise ConfigError(
            f"there is no setting {key!r}. Known: {', '.join(f.name for f in fields(NodeConfig))}"
        )
    click.echo(values[key])


@config.command("set", context_settings={"ignore_unknown_options": True})  # -1 is a value
@click.argument("key")
@click.argument("value")
@home_option
def config_set(key: str, value: str, home: NodeHome) -> None:
    """Change one setting; a running node applies it within a second."""
    home.check()
    click.echo(f"{key} = {set_config(NodeConfig, home.root, key, value)}")
