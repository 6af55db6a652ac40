"""Tables as aligned text, for `print` and terminals without colours, and their cells as words."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_CELL = 60
"""Most characters of a cell in a table of text."""


class Figure(str):
    """A number that is written out already, and stands in its column as numbers do."""

    __slots__ = ()


def cell_text(value: Any) -> str:
    """Return a value as the cell of a table: numbers of four digits, nothing for None, and nothing that steers a terminal."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            text = value
        case numbers.Integral():
            text = f"{int(value):,}".replace(",", " ") if abs(int(value)) >= 10_000 else str(int(value))
        case numbers.Real():
            text = number_text(float(value))
        case list() | tuple() | set() | frozenset():
            text = ", ".join(cell_text(item) for item in value)
        case Mapping():
            text = ", ".join(f"{cell_text(key)}: {cell_text(item)}" for key, item in value.items())
        case _:
            text = str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def number_text(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits: `0.8512`, `1234.6`, `3.1e-07`; a dash for none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 9:
        return f"{value:.{digits - 2}e}"
    places = max(0, digits - 1 - size)
    text = f"{value:.{min(places, 6)}f}"
    return text if size < digits else f"{value:.1f}"


def is_numeric(value: Any) -> bool:
    """Tell whether a cell is a number, or empty."""
    return (
        value is None
        or isinstance(value, Figure)
        or (isinstance(value, numbers.Real) and not isinstance(value, bool))
    )


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, width: int = MAX_CELL) -> str:
    """Return a table whose columns are aligned: numbers to the right, words to the left.

    Args:
        width: most characters of a cell.
    """
    cells = [list(row) for row in rows]
    numeric = [bool(cells) and all(is_numeric(row[column]) for row in cells) for column in range(len(header))]
    texts = [[_cut(cell_text(name), width) for name in header]]
    texts += [[_cut(cell_text(cell), width) for cell in row] for row in cells]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    lines = []
    for row in texts:
        placed = [
            cell.rjust(widths[column]) if numeric[column] else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(placed).rstrip())
    return "\n".join(lines)


def text_facts(rows: Mapping[str, Any]) -> str:
    """Return names and values, one a line, with the values below each other."""
    texts = {cell_text(name): cell_text(value) for name, value in rows.items()}
    widest = max(map(len, texts), default=0)
    return "\n".join(f"{name:{widest}}  {value}".rstrip() for name, value in texts.items())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of Markdown."""
    lines = [[_markdown(cell_text(name)) for name in header], ["---"] * len(header)]
    lines += [[_markdown(cell_text(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of LaTeX with the rules of the package booktabs."""
    cells = [list(row) for row in rows]
    form = "".join(
        "r" if cells and all(is_numeric(row[column]) for row in cells) else "l"
        for column in range(len(header))
    )
    lines = [
        " & ".join(_latex(cell_text(name)) for name in header),
        *(" & ".join(_latex(cell_text(c)) for c in row) for row in cells),
    ]
    head, *body = [f"{line} \\\\" for line in lines]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{form}}}",
            "\\toprule",
            head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "∞": r"$\infty$", "<": "$<$", ">": "$>$",
    "|": "$|$", "[": "{[}", "]": "{]}", "…": r"\ldots{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
