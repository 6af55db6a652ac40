"""The command `fedjob node notify`: a notice as a test of the owner's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedjob.common.config import load_config
from fedjob.common.errors import ConfigError
from fedjob.common.terminal.going_on import still_going_on
from fedjob.node.cli.home import home_option

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome


@click.command()
@home_option
def notify(home: NodeHome) -> None:
    """Send a notice as a test, by every way that `notify_mail`, `notify_webhook` and `notify_command` set.

    \b
    fedjob node config set notify_mail owner@clinic.example
    fedjob node notify
    """

    from fedjob.identity.keys import Identity
    from fedjob.node.config.config import NodeConfig
    from fedjob.node.grants.notifications import Notice, send_notice

    home.check()
    party = Identity.load_or_create(home.keys).party
    with still_going_on("sending a notice"):
        outcomes = send_notice(Notice(party, (), 0, is_test=True), load_config(NodeConfig, home.root))
    if not outcomes:
        raise ConfigError(
            "no way of being notified is set: fedjob node config set notify_mail, notify_webhook or notify_command"
        )
    for way, error in outcomes.items():
        click.echo(f"{way:8} {'sent' if error is None else f'failed: {error}'}")
    if failed := [way for way, error in outcomes.items() if error is not None]:
        raise ConfigError(f"the notice did not go out by {' and '.join(failed)}")
