"""The `--home` option of every node command, and the database of that home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from fedjob.common.console import HomeFolder
from fedjob.common.errors import FedjobError
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.owner.node_state import name_of, open_database

__all__ = ["KnownText", "home_option", "name_of", "open_database"]


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


class KnownText(click.ParamType):  # type: ignore[type-arg]
    """A name or an id that a shell completes from the home.

    Args:
        kind: `grant`, `task`, `dataset`, `job` or `setting`.
    """

    name = "text"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        home = ctx.params.get("home") or NodeHome(_default_home())
        try:
            found = list(_known(self._kind, home))
        except (FedjobError, OSError):  # a shell that completes has no place for errors
            return []
        return [CompletionItem(value, help=text) for value, text in found if value.startswith(incomplete)]


def _known(kind: str, home: NodeHome) -> Iterator[tuple[str, str]]:
    """Yield what there is of a kind, each with a few words about it."""
    if kind == "setting":
        yield from ((field.name, "") for field in fields(NodeConfig))
        return
    with open_database(home) as database:
        match kind:
            case "grant":
                for row in database.rows("SELECT id, status, researcher FROM grants ORDER BY requested DESC"):
                    yield row["id"], f"{row['status']} {row['researcher']}"
            case "dataset":
                for row in database.rows("SELECT name FROM datasets ORDER BY name"):
                    yield row["name"], ""
            case "task" | "job":
                column = {"task": "key", "job": "job"}[kind]
                for table in ("tasks", "history"):
                    for row in database.rows(f"SELECT DISTINCT {column} AS id FROM {table}"):
                        yield row["id"], ""
