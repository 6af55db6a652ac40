"""A report of facts and named tables: aligned text, HTML, Markdown and LaTeX of the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.notebooks.html import facts, note, panel, table
from fedjob.common.notebooks.plain_tables import (
    cell_text,
    latex_table,
    markdown_table,
    text_facts,
    text_table,
)

MAX_TEXT_ROWS = 40
"""Most rows of a table that the text of a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTable:
    """A table with a name.

    Args:
        name: in words; empty for the only one.
        rows: cells of any kind, see `plain_tables.cell_text`.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Facts and tables under a title; print it, show it in a notebook, or put it into a paper.

    Args:
        title: what it is about.
        facts: name -> value.
        about: whom it is about; the last line.
    """

    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[ShownTable] = ()
    about: str = ""

    def __str__(self) -> str:
        parts = [cell_text(self.title)]
        if self.facts:
            parts.append(text_facts(self.facts))
        for one in self.tables:
            named = f"{cell_text(one.name)}\n" if one.name else ""
            parts.append(named + _text(one))
        return "\n\n".join([*parts, *([cell_text(self.about)] if self.about else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        drawn = [table(one.header, one.rows, caption=one.name) for one in self.tables]
        return panel(self.title, *([facts(self.facts)] if self.facts else []), *drawn, note(self.about))

    def to_markdown(self) -> str:
        """Return the tables as Markdown."""
        return "\n\n".join(
            (f"**{cell_text(one.name)}**\n\n" if one.name else "") + markdown_table(one.header, one.rows)
            for one in self.tables
        )

    def to_latex(self) -> str:
        """Return the tables as LaTeX, with the rules of the package booktabs."""
        return "\n\n".join(
            (f"% {cell_text(one.name)}\n" if one.name else "") + latex_table(one.header, one.rows)
            for one in self.tables
        )


def _text(one: ShownTable) -> str:
    """Return a table as text, without the middle of a long one."""
    if len(one.rows) <= MAX_TEXT_ROWS:
        return text_table(one.header, one.rows)
    half = MAX_TEXT_ROWS // 2
    lines = text_table(one.header, [*one.rows[:half], *one.rows[-half:]]).splitlines()
    gap = f"... {len(one.rows) - 2 * half} rows are not shown"
    return "\n".join([*lines[: half + 1], gap, *lines[half + 1 :]])
