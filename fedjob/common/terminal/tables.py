"""Tables as lines: one a row in a pipe, and no wider than the terminal on one. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from fedjob.common.checks import printable
from fedjob.common.terminal.colours import BOLD, colour_of, painted

GAP = "  "

MIN_ID = 12
"""Fewest characters of the beginning of an id."""

_NUMBER = re.compile(r"-?[\d.,]+(e-?\d+)?( ?(B|kB|MB|GB|s|%))?")
_PIECE = re.compile(r"([a-z][a-z0-9+]*://)?[^\s,/;]*[,/;]*\s*")
"""What stays together where a cell is wrapped: a word, an item of a list, a folder of a path."""


def width_of(text: str) -> int:
    """Return the number of a terminal's columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def table_lines(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    colours: bool = False,
    ids: Collection[str] = (),
) -> list[str]:
    """Return a table as lines, with numbers to the right and words to the left.

    Args:
        rows: one or more, of as many cells as the header.
        width: columns of the terminal; None for a pipe, where every row is one line and nothing is left out. In a
            terminal columns without any content are left out, words are wrapped, and where even that is too wide
            each row is a few lines of its own. No word is cut.
        ids: columns of ids that commands know by their beginnings: where a terminal is narrow these are shown.
    """
    names = [printable(name) for name in header]
    cells = [[printable(cell) if cell.strip() else "-" for cell in row] for row in rows]
    if width is not None:
        kept = [n for n in range(len(names)) if any(row[n].strip() not in ("", "-") for row in cells)]
        names, cells = [names[n] for n in kept], [[row[n] for n in kept] for row in cells]
    widths = [max(map(width_of, column)) for column in zip(names, *cells, strict=True)]
    if width is not None:
        narrow = _narrowed(names, cells, widths, width)
        if narrow != widths and set(ids) & set(names):
            cells = _with_short_ids(names, cells, ids)
            widths = [max(map(width_of, column)) for column in zip(names, *cells, strict=True)]
            narrow = _narrowed(names, cells, widths, width)
        if narrow is None:
            return _records(names, cells, width, colours)
        widths = narrow
    right = [all(_is_figure(row[n]) for row in cells) for n in range(len(names))]
    lines = [_line(names, widths, right, [BOLD if colours else ""] * len(names))]
    for row in cells:
        parts = [wrapped(cell, widths[n]) for n, cell in enumerate(row)]
        paint = [colour_of(name, cell) if colours else "" for name, cell in zip(names, row, strict=True)]
        for k in range(max(map(len, parts))):
            lines.append(_line([part[k] if k < len(part) else "" for part in parts], widths, right, paint))
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines of at most `width` columns, broken between words, items or folders where it can be."""
    if width_of(text) <= width:
        return [text]
    lines, line = [], ""
    for piece in _pieces(text):
        if line and width_of(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while width_of(piece.rstrip()) > width:
            count = len(piece)
            while width_of(piece[:count]) > max(width, 2):
                count -= 1
            lines.append(piece[:count])
            piece = piece[count:]
        line += piece
    return [*lines, line.rstrip()] if line.strip() else lines


def _pieces(text: str) -> list[str]:
    return [found.group() for found in _PIECE.finditer(text) if found.group()]


def _is_figure(cell: str) -> bool:
    return cell in ("", "-") or _NUMBER.fullmatch(cell) is not None


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], paint: Sequence[str]) -> str:
    placed = []
    for cell, width, to_right, colour in zip(cells, widths, right, paint, strict=True):
        space = " " * (width - width_of(cell))
        text = painted(cell, colour) if cell else ""
        placed.append(space + text if to_right else text + space)
    return GAP.join(placed).rstrip()


def _narrowed(
    names: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int], width: int
) -> list[int] | None:
    """Return the widths of columns with which a table fits; None where words or ids would have to be broken."""
    least = [
        max([width_of(names[n]), *(width_of(p.rstrip()) for row in cells for p in _pieces(row[n]))])
        for n in range(len(names))
    ]
    room = width - len(GAP) * (len(names) - 1)
    if sum(least) > room:
        return None
    found = list(widths)
    while sum(found) > room:  # the widest that can be narrower is, a column at a time
        widest = max((n for n in range(len(found)) if found[n] > least[n]), key=lambda n: found[n])
        found[widest] -= 1
    return found


def _with_short_ids(
    names: Sequence[str], cells: Sequence[Sequence[str]], ids: Collection[str]
) -> list[list[str]]:
    """Return the cells with the beginnings of ids that tell them apart."""
    found = [list(row) for row in cells]
    for n, name in enumerate(names):
        if name not in ids:
            continue
        column = {row[n] for row in cells}
        length = next(
            (k for k in range(MIN_ID, max(map(len, column))) if len({c[:k] for c in column}) == len(column)),
            None,
        )
        for row in found:
            row[n] = row[n][:length]
    return found


def _records(names: Sequence[str], cells: Sequence[Sequence[str]], width: int, colours: bool) -> list[str]:
    """Return each row as lines of name and value, with an empty line between rows."""
    indent = max(map(width_of, names)) + len(GAP)
    lines: list[str] = []
    for row in cells:
        if lines:
            lines.append("")
        lines += _record(zip(names, row, strict=True), indent, max(10, width - indent), colours)
    return lines


def _record(row: Iterator[tuple[str, str]], indent: int, room: int, colours: bool) -> list[str]:
    lines = []
    for name, cell in row:
        if cell.strip() in ("", "-"):
            continue
        label = painted(name, BOLD if colours else "") + " " * (indent - width_of(name))
        for text in wrapped(cell, room):
            lines.append(label + painted(text, colour_of(name, cell) if colours else ""))
            label = " " * indent
    return lines
