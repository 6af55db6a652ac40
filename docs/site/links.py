"""Links of the pages: where each file of this checkout stands in the site, and the links that lead there.

A page is written for a code host, where a link names a file of the checkout. In the site a page of `docs/` and a
notebook have their own places; every other file or folder that a page links to becomes a page that shows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))")
FENCE = re.compile(r" *(```+|~~~+)")
PICTURES = (".png", ".svg", ".jpg")


def place(path: str) -> str:
    """Return where a file or folder of the checkout stands in the site, as a source of mkdocs.

    Args:
        path: below the checkout, with "/".
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "notebooks":
        return "notebooks/index.md"
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    if (ROOT / path).is_dir():
        page = f"{path}/README.md"
        return f"files/{page}" if (ROOT / page).exists() else f"files/{path}/index.md"
    return f"files/{path}" if path.endswith((".md", *PICTURES)) else f"files/{path}.md"


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return Markdown with all its lines changed but those of code blocks."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        else:
            line = change(line)
        lines.append(line)
    return "\n".join(lines)


def targets(text: str, page: str) -> Iterator[str]:
    """Yield the files and folders of the checkout that a page links to.

    Args:
        page: its own path below the checkout.
    """
    found: list[str] = []

    def note(match: re.Match[str]) -> str:
        if (path := _resolved(match[2], page)) is not None:
            found.append(path)
        return match[0]

    outside_code(text, lambda line: LINK.sub(note, line))
    yield from found


def rewritten(text: str, page: str) -> str:
    """Return a page with links that lead to where their targets stand in the site."""
    here = posixpath.dirname(place(page))

    def write(match: re.Match[str]) -> str:
        path = _resolved(match[2], page)
        if path is None:
            return match[0]
        _, mark, anchor = match[2].partition("#")
        there = posixpath.relpath(place(path), here or ".")
        return f"{match[1]}{there}{mark}{anchor}{match[3]}"

    return outside_code(text, lambda line: LINK.sub(write, line))


def _resolved(target: str, page: str) -> str | None:
    """Return the file that a link names, below the checkout; None for an address, an anchor or nothing there."""
    name = unquote(target.partition("#")[0])
    if not name or re.match(r"[a-z]+:", name):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
    if path.startswith("..") or not (ROOT / path).exists():
        return None
    return path
