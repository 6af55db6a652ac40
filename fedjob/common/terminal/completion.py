"""Names and ids that a shell completes, read from a home's database without the packages of its role.

A Tab starts a process of its own: whatever it imports is waited for, and most of fedjob takes longer than a person does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fedjob.common.checks import printable

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:
    _Text = click.ParamType

MAX_OFFERED = 1000
"""Most names that are offered at a Tab."""

WITHIN_S = 0.2
"""A database that is written for longer completes nothing."""


class CompletedText(_Text):
    """A text that a shell completes.

    Args:
        offered: `--home` as it was given, or None -> values, each with a few words about it.
        before: a beginning that people leave out, such as `job_`.
    """

    name = "text"

    def __init__(self, offered: Callable[[object], Iterable[tuple[str, str]]], *, before: str = "") -> None:
        self._offered = offered
        self._before = before

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        begins = (incomplete, f"{self._before}{incomplete}") if self._before else incomplete
        return [
            CompletionItem(value, help=printable(about))
            for value, about in self._offered(ctx.params.get("home"))
            if value.startswith(begins)
        ][:MAX_OFFERED]


def rows_of(database: Path, query: str) -> list[Any]:
    """Return the rows of a query, as texts; none where the database can't be read now. Nothing is written."""
    try:
        with closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=WITHIN_S)
        ) as opened:
            return [tuple(map(str, row)) for row in opened.execute(query).fetchmany(MAX_OFFERED)]
    except (sqlite3.Error, OSError):  # a shell that completes has no place for errors
        return []
