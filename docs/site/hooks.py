"""What mkdocs calls while it builds the site: files that are added, Markdown that is adapted, outputs put in."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from docs.site import files as shown
from docs.site import notebooks, reference
from docs.site.links import PICTURES, ROOT, place, rewritten, targets

SOURCES: dict[str, str] = {}
"""Source of mkdocs -> the file of the checkout that it shows."""
OUTPUTS: dict[str, dict[str, str]] = {}
"""Source of mkdocs -> mark -> the output of a notebook that stands there."""
FOREIGN = re.compile(r"https://(?:unpkg\.com|api\.github\.com)[^\"'`]*")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation with the pages that are made here."""
    made = [{group.title: f"reference/{group.page}.md"} for group in reference.GROUPS]
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = [
                place("notebooks"),
                *(place(f"notebooks/{p.name}") for p in notebooks.all_notebooks()),
            ]
        if "Reference" in entry:
            pages = ["reference/index.md", *made, {"Commands": "reference/commands.md"}]
            entry["Reference"] = [*pages, *entry["Reference"]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, the reference, and every file of the checkout that a page links to."""
    SOURCES.clear()
    OUTPUTS.clear()
    waiting = []
    for file in files.documentation_pages():
        SOURCES[file.src_uri] = f"docs/{file.src_uri}"
        waiting.append((f"docs/{file.src_uri}", file.content_string))
    for group in reference.GROUPS:
        _add(files, config, f"reference/{group.page}.md", reference.page_of(group))
    _add(files, config, "reference/index.md", reference.index())
    _add(files, config, "reference/commands.md", reference.commands())
    waiting += _add_notebooks(files, config)
    while waiting:
        page, text = waiting.pop()
        for path in targets(text, page):
            source = place(path)
            if files.get_file_from_path(source) is not None:
                continue
            if source.endswith(PICTURES):
                _add(files, config, source, (ROOT / path).read_bytes())
                continue
            content = shown.markdown_of(path)
            SOURCES[source] = _written_in(path)
            _add(files, config, source, content)
            waiting.append((SOURCES[source], content))
    return files


def _written_in(path: str) -> str:
    """Return the file from which the links of a shown file lead: those of a folder's listing from within it."""
    if not (ROOT / path).is_dir():
        return path
    return f"{path}/README.md" if (ROOT / path / "README.md").exists() else f"{path}/index.md"


def _add_notebooks(files: Files, config: MkDocsConfig) -> list[tuple[str, str]]:
    rows, added = [], []
    for path in notebooks.all_notebooks():
        page = notebooks.page_of(path)
        name = f"notebooks/{path.name}"
        SOURCES[place(name)] = name
        OUTPUTS[place(name)] = page.outputs
        _add(files, config, place(name), page.text)
        for picture, content in page.pictures.items():
            _add(files, config, f"notebooks/{picture}", content)
        title, about = opening(page.text)
        rows.append(f"| [{title}]({path.stem}.md) | {about} |")
        added.append((name, page.text))
    table = "\n".join(["| notebook | |", "|---|---|", *rows])
    _add(
        files,
        config,
        "notebooks/index.md",
        f"# Notebooks\n\nEach runs on one machine, from top to bottom.\n\n{table}\n",
    )
    return added


def opening(text: str) -> tuple[str, str]:
    """Return the title of a notebook and its first sentence."""
    title, _, rest = text.removeprefix("# ").partition("\n")
    paragraphs = [part for part in rest.split("\n\n") if part.strip() and not part.strip().startswith("*")]
    return title, re.split(r"(?<=[.?])\s", paragraphs[0].replace("\n", " ").strip())[0]


def _add(files: Files, config: MkDocsConfig, source: str, content: str | bytes) -> None:
    level = InclusionLevel.NOT_IN_NAV if source.startswith("files/") else InclusionLevel.INCLUDED
    files.append(File.generated(config, source, content=content, inclusion=level))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt a page that was written for a code host."""
    source = page.file.src_uri
    if source in SOURCES:
        markdown = rewritten(markdown, SOURCES[source])
    if source.startswith("files/") and not SOURCES.get(source, "").endswith(".md"):
        page.meta["search"] = {
            "exclude": True
        }  # programs and settings would hide the pages that explain them
    return with_titles(markdown)


def with_titles(markdown: str) -> str:
    """Return Markdown in which the second word of a fence, a file's name, is the block's title."""

    def fence(match: re.Match[str]) -> str:
        ticks, language, about = match[1], match[2], match[3].strip()
        title = f' title="{about}"' if re.fullmatch(r"[\w./-]+\.\w+", about) else ""
        return f"{ticks}{language}{title}"

    return re.sub(r"^(```+)(\w+)([^\n`]*)$", fence, markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the outputs of a notebook where their marks stand."""
    for mark, output in OUTPUTS.get(page.file.src_uri, {}).items():
        html = html.replace(f'<div id="{mark}"></div>', output)
    if page.file.src_uri.startswith("reference/"):
        html = re.sub(r"\bdocs/(\w+)\.md\b", lambda name: _page_link(name[1], name[0], files), html)
    return html


def _page_link(name: str, words: str, files: Files) -> str:
    """Return a page that a docstring names as a link to it."""
    there = files.get_file_from_path(f"{name}.md") is not None
    return f'<a href="../{name}.html">{words}</a>' if there else words


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Lead to the first page by the name of its file: a folder that is opened as files shows a list."""
    return re.sub(r'href="((?:\.\./)*)\.{1,2}/?"', _first_page, output)


def _first_page(link: re.Match[str]) -> str:
    path = link[0].removeprefix('href="').removesuffix('"').rstrip("/")
    return f'href="{path}/index.html"' if path != "." else 'href="index.html"'


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Take out of the theme's scripts what this site has no use for: other languages, and addresses of other hosts."""
    scripts = Path(config.site_dir, "assets", "javascripts")
    shutil.rmtree(scripts / "lunr", ignore_errors=True)
    for script in scripts.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        if FOREIGN.search(text):
            script.write_text(FOREIGN.sub("about:blank", text), encoding="utf-8")
    for source_map in Path(config.site_dir, "assets").rglob("*.map"):
        source_map.unlink()
