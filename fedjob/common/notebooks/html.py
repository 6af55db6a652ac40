"""The pieces of HTML that notebooks show: one scoped style sheet, light and dark, and text that is always escaped.

Without the style sheet, which GitHub and untrusted notebooks leave out, tables stay plain tables. Every piece is read in
a saved notebook alone, so that each brings the style sheet with it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedjob.common.notebooks.plain_tables import cell_text, is_numeric

_LIGHT = "--ink:#1f2430;--dim:#667085;--line:#d9dee7;--soft:#f4f6f9;--accent:#1f6feb;--good:#1a7f4b;--bad:#b42318;--warn:#8f5b00"
_DARK = "--ink:#e6e9ef;--dim:#9aa4b5;--line:#3a4252;--soft:#232936;--accent:#6ea8fe;--good:#5fd39a;--bad:#ff9086;--warn:#e8b64c"

STYLE = f"""<style>
.fedjob{{{_LIGHT};color:var(--ink);font:13px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
max-width:100%;overflow-x:auto;padding:2px 0}}
@media (prefers-color-scheme:dark){{.fedjob{{{_DARK}}}}}
[data-jp-theme-light="true"] .fedjob,body[data-vscode-theme-kind="vscode-light"] .fedjob{{{_LIGHT}}}
[data-jp-theme-light="false"] .fedjob,body[data-vscode-theme-kind="vscode-dark"] .fedjob{{{_DARK}}}
.fedjob .fj-head{{font-weight:600;font-size:14px;margin:2px 0 4px;color:var(--ink)}}
.fedjob .fj-head small{{font-weight:400;color:var(--dim);font-size:12px;margin-left:.3em}}
.fedjob p.fj-note{{color:var(--dim);margin:4px 0;max-width:80em}}
.fedjob p.fj-warn{{color:var(--warn);margin:4px 0;max-width:80em}}
.fedjob.fedjob.fedjob table{{border-collapse:collapse;margin:4px 0 8px;border:0;color:inherit;font:inherit;font-variant-numeric:tabular-nums}}
.fedjob.fedjob.fedjob table caption{{caption-side:top;text-align:left;font-weight:600;padding:4px 0;color:var(--ink)}}
.fedjob.fedjob.fedjob table thead tr,.fedjob.fedjob.fedjob table tbody tr:nth-child(n){{background:transparent;border:0}}
.fedjob.fedjob.fedjob table thead th{{text-align:left;font-weight:600;color:var(--dim);border:0;border-bottom:1px solid var(--line);
padding:3px 16px 3px 0;vertical-align:bottom}}
.fedjob.fedjob.fedjob table tbody td,.fedjob.fedjob.fedjob table tbody th{{text-align:left;border:0;border-bottom:1px solid var(--soft);
padding:3px 16px 3px 0;vertical-align:top;max-width:60em;overflow-wrap:break-word;white-space:normal}}
.fedjob.fedjob.fedjob table tbody th{{font-weight:500;color:var(--dim);white-space:nowrap}}
.fedjob.fedjob.fedjob table tbody tr:nth-child(n):hover{{background:var(--soft)}}
.fedjob.fedjob.fedjob table td.fj-s{{white-space:nowrap}}
.fedjob.fedjob.fedjob table td.fj-n,.fedjob.fedjob.fedjob table thead th.fj-n{{text-align:right;white-space:nowrap}}
.fedjob .fj-chip{{display:inline-block;vertical-align:middle;white-space:nowrap;border-radius:9px;padding:0 8px;font-size:12px;border:1px solid currentColor}}
.fedjob .fj-good{{color:var(--good)}}.fedjob .fj-bad{{color:var(--bad)}}.fedjob .fj-busy{{color:var(--accent)}}
.fedjob .fj-idle{{color:var(--dim)}}.fedjob .fj-wait{{color:var(--warn)}}
.fedjob .fj-bar{{display:inline-block;width:120px;height:7px;border-radius:4px;background:var(--line);vertical-align:middle;
margin-right:8px;overflow:hidden}}
.fedjob .fj-bar>i{{display:block;height:100%;background:var(--accent)}}
.fedjob pre{{font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:inherit;background:var(--soft);
padding:6px 8px;margin:4px 0;overflow:auto;max-height:24em}}
.fedjob pre.fj-tail{{display:flex;flex-direction:column-reverse}}
</style>"""

MAX_ROWS = 60
"""Most rows of a table that a notebook shows; the last ones stand behind a line that says how many are left out."""


MAX_UNBROKEN = 32
"""Most characters of the cells of a column that stay on one line."""

LEFT = ' style="text-align:left"'
"""For words, also where the style sheet is left out: JupyterLab moves every cell to the right."""


class Piece(str):
    """A piece of HTML that is safe to show as it is: everything else is escaped where it is put in."""

    __slots__ = ()


def panel(title: str, *pieces: Piece, aside: str = "") -> str:
    """Return pieces under a title, with the style sheet: what `_repr_html_` gives.

    Args:
        title: empty for none.
        aside: in small letters behind the title.
    """
    small = f" <small>{escaped(aside)}</small>" if aside else ""
    head = f'<div class="fj-head">{escaped(title)}{small}</div>' if title or aside else ""
    return f'{STYLE}<div class="fedjob">{head}{"".join(pieces)}</div>'


def escaped(value: Any) -> str:
    """Return a value as HTML shows it; a `Piece` as it is."""
    return value if isinstance(value, Piece) else html.escape(cell_text(value))


def facts(rows: Mapping[str, Any]) -> Piece:
    """Return names and values as a table of two columns."""
    body = "".join(
        f"<tr><th{LEFT}>{escaped(name)}</th><td{LEFT}>{escaped(value)}</td></tr>"
        for name, value in rows.items()
    )
    return Piece(f"<table><tbody>{body}</tbody></table>")


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", most: int | None = MAX_ROWS
) -> Piece:
    """Return a table; columns of numbers are aligned to the right, and a long one is cut in its middle.

    Args:
        most: rows that are shown; None for all.
    """
    cells = [list(row) for row in rows]
    numeric = [
        bool(cells) and all(is_numeric(row[column]) for row in cells if column < len(row))
        for column in range(len(header))
    ]
    kinds = [' class="fj-n"' if each else _of_words(cells, column) for column, each in enumerate(numeric)]
    sides = [kind if each else LEFT for kind, each in zip(kinds, numeric, strict=True)]
    head = "".join(f"<th{side}>{escaped(name)}</th>" for name, side in zip(header, sides, strict=True))
    shown = cells
    if most is not None and len(cells) > most:
        left = len(cells) - most + 1
        gap = Piece(f'<td colspan="{len(header)}" class="fj-idle">… {left} rows are not shown</td>')
        shown = [*cells[: most - 11], [gap], *cells[-10:]]
    body = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in shown)
    titled = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return Piece(f"<table>{titled}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _of_words(cells: Sequence[Sequence[Any]], column: int) -> str:
    """Return the attributes of the cells of a column of words: short ones, such as names, are not broken at hyphens."""
    lengths = (len(escaped(row[column])) for row in cells if column < len(row))
    return f' class="fj-s"{LEFT}' if max(lengths, default=0) <= MAX_UNBROKEN else LEFT


def _row(row: Sequence[Any], kinds: Sequence[str]) -> str:
    if len(row) == 1 and isinstance(row[0], Piece) and row[0].startswith("<td"):
        return row[0]
    return "".join(f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(row, kinds, strict=False))


def note(text: str, *, warns: bool = False) -> Piece:
    """Return a paragraph; none for an empty text."""
    kind = "fj-warn" if warns else "fj-note"
    return Piece(f'<p class="{kind}">{escaped(text)}</p>' if text else "")


def preformatted(text: str, *, from_end: bool = False) -> Piece:
    """Return a text as it is written.

    Args:
        from_end: where it is too long to be seen whole its end is, and its beginning is reached by scrolling.
    """
    kind = ' class="fj-tail"' if from_end else ""
    return Piece(f"<pre{kind}>{html.escape(text)}</pre>")


GOOD, BAD, BUSY, WAIT, IDLE = "good", "bad", "busy", "wait", "idle"


def chip(text: str, mood: str = IDLE) -> Piece:
    """Return a word in a frame whose colour says how it is meant; the word says it, too."""
    return Piece(f'<span class="fj-chip fj-{mood}">{escaped(text)}</span>')


def bar(fraction: float, words: str = "") -> Piece:
    """Return a bar that is full to a fraction, 0 to 1, with words behind it."""
    known = fraction if math.isfinite(fraction) else 0.0
    percent = 100 * min(1.0, max(0.0, known))
    return Piece(
        f'<span class="fj-bar" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{percent:.0f}%"></i></span>{escaped(words)}'
    )


def joined(*pieces: Any) -> Piece:
    """Return pieces one behind the other; what is no piece is escaped."""
    return Piece(" ".join(escaped(piece) for piece in pieces))
