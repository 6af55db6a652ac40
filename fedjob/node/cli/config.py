"""The commands `fedjob node config ...`: the node's settings."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

import click

from fedjob.common.config import (
    CONFIG_NAME,
    Fault,
    check_settings,
    parse_value,
    read_config,
    read_settings,
    write_config,
)
from fedjob.common.console import json_option
from fedjob.common.errors import ConfigError
from fedjob.node.cli.daemon import settings_in_force
from fedjob.node.cli.home import KnownText, home_option
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.settings import faults_between, live_facts
from fedjob.node.startup import running_pid

APPLIED_WITHIN_S = 20.0


@click.group()
def config() -> None:
    """Show and change the node's settings."""


@config.command("show")
@home_option
@json_option
def config_show(home: NodeHome, as_json: bool) -> None:
    """Show every setting that is in force."""
    values = _in_force(home)
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        click.echo(f"{key} = {_shown(value)}")


@config.command("get")
@click.argument("key", type=KnownText("setting"))
@home_option
def config_get(key: str, home: NodeHome) -> None:
    """Print one setting that is in force."""
    values = _in_force(home)
    _known(key)
    click.echo(_shown(values[key]))


@config.command("set", context_settings={"ignore_unknown_options": True})  # -1 is a value
@click.argument(
    "pairs", metavar="KEY VALUE [KEY VALUE]...", type=KnownText("setting"), nargs=-1, required=True
)
@home_option
def config_set(pairs: tuple[str, ...], home: NodeHome) -> None:
    """Change settings, those that belong together at once; a running node applies them within a second."""
    home.check()
    if len(pairs) % 2:
        raise ConfigError(f"expected KEY VALUE [KEY VALUE]..., found {len(pairs)} words")
    changes = {
        key: parse_value(NodeConfig, key, text, where="config set")
        for key, text in zip(pairs[::2], pairs[1::2], strict=True)
    }
    if command := changes.get("notify_command"):
        _check_command(str(command))
    readable = _change(home, {**read_config(home.root), **changes}, changed=set(changes))
    for key, value in changes.items():
        click.echo(f"{key} = {_shown(value)}")
    _await_applied(home, changes, readable=readable)


@config.command("unset")
@click.argument("keys", type=KnownText("setting"), nargs=-1, required=True)
@home_option
def config_unset(keys: tuple[str, ...], home: NodeHome) -> None:
    """Take settings out of the file, so that their defaults hold; also those that nobody knows."""
    home.check()
    written = read_config(home.root)
    for key in keys:
        if key not in written:
            _known(key)
    left = {key: value for key, value in written.items() if key not in keys}
    readable = _change(home, left, changed=set(keys))
    defaults = asdict(NodeConfig())
    changes = {key: defaults[key] for key in keys if key in defaults}
    for key, value in changes.items():
        click.echo(f"{key} = {_shown(value)} (the default)")
    _await_applied(home, changes, readable=readable)


def _change(home: NodeHome, values: Mapping[str, Any], *, changed: set[str]) -> bool:
    """Write settings if the node can use them all, or if they mend one of several faults.

    Returns:
        True if the whole file can be read now.

    Raises:
        ConfigError: the file with these settings can't be read as a whole; it is unchanged.
    """
    path = home.root / CONFIG_NAME
    before = _faults(read_settings(NodeConfig, home.root, environ={}))
    after = _faults(check_settings(NodeConfig, values, str(path), environ={}))
    mends = len(after) < len(before) and not any(fault.key in changed for fault in after)
    if after and not mends:
        faults = "; ".join(dict.fromkeys(fault.text for fault in after))
        raise ConfigError(
            f"nothing is changed, because the settings would not hold together: {faults}. Settings that belong "
            "together are set at once (config set KEY VALUE KEY VALUE), a wrong one goes with `config unset KEY`"
        )
    write_config(home.root, values)
    for fault in after:
        click.echo(f"fedjob: another setting can't be read, so the strictest hold: {fault.text}", err=True)
    return not after


def _faults(found: Any) -> tuple[Fault, ...]:
    return found.faults or faults_between(NodeConfig(**found.values))


def _await_applied(home: NodeHome, changes: Mapping[str, Any], *, readable: bool) -> None:
    """Wait until a running node has taken the settings over.

    Args:
        readable: the whole file can be read, so that its settings hold in place of the strictest.

    Raises:
        ConfigError: it uses others: a variable or an option of its start goes before the file.
    """
    deadline = time.monotonic() + APPLIED_WITHIN_S
    used: dict[str, Any] = {}
    while running_pid(home) is not None and time.monotonic() < deadline:
        live = live_facts(home)
        used = live.get("settings", {})
        faulty = readable and bool(live.get("faults"))
        if not faulty and all(used.get(key) == value for key, value in changes.items()):
            return
        time.sleep(0.1)
    if running_pid(home) is None:
        return
    others = [f"{key} = {_shown(used.get(key))}" for key, value in changes.items() if used.get(key) != value]
    raise ConfigError(
        f"written, but the running node still uses {', '.join(others)}: a variable FEDJOB_..., an option of its "
        "start, or a setting that can't be read goes before; see fedjob node status"
    )


def _in_force(home: NodeHome) -> dict[str, Any]:
    settings = settings_in_force(home)
    for fault in settings.faults:
        click.echo(f"fedjob: the settings can't be read, so the strictest hold: {fault}", err=True)
    return asdict(settings.config)


def _known(key: str) -> None:
    names = [field.name for field in fields(NodeConfig)]
    if key not in names:
        near = get_close_matches(key, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"there is no setting {key[:80]!r}{hint} Known: {', '.join(names)}")


def _check_command(text: str) -> None:
    words = shlex.split(text)
    if (
        not words
        or shutil.which(words[0]) is None
        or (os.path.isabs(words[0]) and not os.access(words[0], os.X_OK))
    ):
        raise ConfigError(
            f"notify_command: expected a command that can be run here, found {text[:80]!r}: give the whole path"
        )


def _shown(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
