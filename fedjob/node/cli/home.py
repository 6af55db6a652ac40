"""The `--home` option of every node command, the database of that home, and what a shell completes from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import HomeFolder
from fedjob.common.terminal.completion import CompletedText, rows_of

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.storage.database import Database


def default_home() -> Path:
    """Return the folder of a node where no `--home` is given."""
    given = os.environ.get("FEDJOB_HOME")
    return Path(given) if given else Path.home() / ".fedjob" / "node"


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--home` to a command, which receives a `NodeHome`."""

    def opened(ctx: click.Context, param: click.Parameter, value: Path | None) -> NodeHome | Path:
        if ctx.resilient_parsing:  # for a shell that completes, which waits for every import
            return value or default_home()
        from fedjob.node.config.home import NodeHome

        return NodeHome(value or default_home())

    return click.option(
        "--home",
        type=HomeFolder(),
        callback=opened,
        expose_value=True,
        help="The node's folder; default $FEDJOB_HOME, then ~/.fedjob/node.",
    )(command)


def open_database(home: NodeHome) -> AbstractContextManager[Database]:
    """Open the database of a node's home for a block.

    Raises:
        ConfigError: it is no node's home.
    """
    from fedjob.node.storage import home_database

    return home_database.open_database(home)


class KnownText(CompletedText):
    """A name or an id that a shell completes from the home.

    Args:
        kind: `grant`, `task`, `dataset`, `job`, `model`, `project`, `researcher` or `setting`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(
            lambda home: _known(kind, Path(str(home or default_home()))),
            before="job_" if kind == "job" else "",
        )


_QUERIES = {
    "grant": "SELECT id, status || ' ' || researcher FROM grants ORDER BY requested DESC",
    "dataset": "SELECT name, '' FROM datasets ORDER BY name",
    "task": "SELECT key, state || ' ' || job_name FROM tasks UNION SELECT key, state || ' ' || job_name FROM history",
    "job": "SELECT job, job_name FROM tasks UNION SELECT job, job_name FROM history",
    "researcher": "SELECT researcher, org FROM researchers ORDER BY researcher",
    "project": "SELECT DISTINCT project, '' FROM project_limits UNION SELECT 'default', 'all jobs without a project'",
}


def _known(kind: str, home: Path) -> Iterator[tuple[str, str]]:
    """Yield what there is of a kind, each with a few words about it."""
    if kind == "setting":
        from dataclasses import fields

        from fedjob.node.config.config import NodeConfig

        yield from ((field.name, "") for field in fields(NodeConfig))
    elif kind == "model":
        with suppress(OSError, ValueError, TypeError):
            yield from ((str(name), "") for name in json.loads((home / "models.json").read_bytes()))
    else:
        yield from rows_of(home / "node.sqlite", _QUERIES[kind])
