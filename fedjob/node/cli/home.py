"""The `--home` option of every node command, and the database of that home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fedjob.common.console import HomeFolder
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.database import Database


def _default_home() -> Path:
    given = os.environ.get("FEDJOB_HOME")
    return Path(given) if given else Path.home() / ".fedjob" / "node"


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--home` to a command, which receives a `NodeHome`."""
    return click.option(
        "--home",
        type=HomeFolder(),
        callback=lambda ctx, param, value: NodeHome(value or _default_home()),
        expose_value=True,
        help="The node's folder; default $FEDJOB_HOME, then ~/.fedjob/node.",
    )(command)


@contextmanager
def open_database(home: NodeHome) -> Iterator[Database]:
    home.check()
    database = Database(home.database)
    try:
        yield database
    finally:
        database.close()


def name_of(home: NodeHome) -> str:
    """Return the node's id."""
    return (home.keys / "party").read_text(encoding="utf-8").strip()
