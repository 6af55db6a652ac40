"""Files of the checkout as pages of the site: what a page links to and is neither in `docs/` nor a notebook."""

from __future__ import annotations

from pathlib import Path

from docs.site.links import ROOT

LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".cfg": "ini"}
LANGUAGES |= {".toml": "toml", ".service": "ini", ".conf": "nginx", ".txt": "text"}
HIDDEN = ("__pycache__",)


def markdown_of(path: str) -> str:
    """Return a file or a folder of the checkout as the Markdown of a page.

    Args:
        path: below the checkout, with "/".
    """
    where = ROOT / path
    if where.is_dir():
        return _listing(path, where)
    text = where.read_text(encoding="utf-8")
    if where.suffix == ".md":
        return text
    language = LANGUAGES.get(where.suffix, "text")
    return f"# {path}\n\n````{language}\n{text.rstrip()}\n````\n"


def _listing(path: str, folder: Path) -> str:
    rows = [
        f"- [{child.name}{'/' if child.is_dir() else ''}]({child.name})"
        for child in sorted(folder.iterdir())
        if child.name not in HIDDEN and not child.name.startswith(".")
    ]
    return f"# {path}/\n\n" + "\n".join(rows) + "\n"
