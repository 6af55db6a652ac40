"""The site of the docs as it is built: complete, the same as on a code host, and read without any other host."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from markdown_it import MarkdownIt
from nbclient.exceptions import CellExecutionError

from docs.site import notebooks, reference
from docs.site.links import ROOT
from tests.browsers import Watched, chromium

pytestmark = [pytest.mark.timeout(420), pytest.mark.slow]

PAGES = sorted(ROOT.glob("docs/*.md"))
FETCHING = {"src", "srcset", "data", "poster", "action"}
LINKED = {
    "stylesheet",
    "icon",
    "preconnect",
    "prefetch",
    "preload",
    "modulepreload",
    "dns-prefetch",
    "manifest",
}
FAR = re.compile(r"\s*(?:[a-z]+:)?//|\s*(?:https?|wss?):", re.IGNORECASE)
IN_COMMENTS = {"lunrjs.com", "tartarus.org", "bit.ly", "clipboardjs.com"}
"""Hosts that the theme's scripts name in comments and messages."""


class Read(HTMLParser):
    """What a page of the site holds: anchors, links, what it fetches, and its pieces within the article."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.pieces: Counter[str] = Counter()
        self.text = path.read_text(encoding="utf-8")
        self._inside = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        if "id" in about:
            self.ids.add(about["id"])
        if tag == "article":
            self._inside = True
        if tag == "a" and "href" in about:
            self.links.append(about["href"])
        if tag == "link" and set(about.get("rel", "").split()) & LINKED:
            self.fetched.append(about["href"])
        self.fetched += [about[name] for name in FETCHING & set(about) if tag != "a"]
        self.fetched += re.findall(r"url\(['\"]?([^)'\"]*)", about.get("style", ""))
        if self._inside:
            self.pieces[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._inside = False


class Site:
    """The site in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, Read]:
        return {path: Read(path) for path in sorted(self.folder.rglob("*.html"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return the site, built once, without running a notebook."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, "-m", "docs.site", "--no-notebooks", "--to", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return Site(folder)


def test_no_page_fetches_anything_from_another_host(site: Site) -> None:
    found = [
        f"{path.relative_to(site.folder)}: {url}"
        for path, read in site.pages.items()
        for url in read.fetched
        if FAR.match(url)
    ]
    assert found == []


def test_no_style_and_no_script_names_another_host_to_fetch_from(site: Site) -> None:
    for path in site.folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert [url for url in re.findall(r"url\(['\"]?([^)'\"]*)", text) if FAR.match(url)] == [], path
        assert "@import" not in text
    for path in (site.folder / "assets").rglob("*.js"):
        hosts = set(re.findall(r"(?:https?|wss?)://([\w.-]+)", path.read_text(encoding="utf-8")))
        assert hosts <= IN_COMMENTS, path


def test_every_page_tells_the_browser_to_ask_no_other_host(site: Site) -> None:
    for path, read in site.pages.items():
        assert "default-src 'self' file:;" in read.text, path
        policy = re.search(r'Content-Security-Policy" content="([^"]*)', read.text)
        assert policy is not None
        assert "http" not in policy[1]


def test_every_link_leads_to_a_page_and_an_anchor_that_are_there(site: Site) -> None:
    dead = []
    for path, read in site.pages.items():
        if path.name == "404.html":
            continue
        for link in read.links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            there = (path.parent / unquote(name)).resolve() if name else path
            if not there.is_file() or (
                anchor and there.suffix == ".html" and unquote(anchor) not in site.pages[there].ids
            ):
                dead.append(f"{path.relative_to(site.folder)}: {link}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_pieces_that_a_code_host_shows(page: Path, site: Site) -> None:
    kinds = {
        "list_item_open": "li",
        "table_open": "table",
        "tr_open": "tr",
        "fence": "pre",
        "code_block": "pre",
        "image": "img",
    }
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    every = [inner for token in tokens for inner in (token, *(token.children or ()))]
    wanted = Counter(kinds[token.type] for token in every if token.type in kinds)
    wanted += Counter(token.tag for token in every if token.type == "heading_open")
    name = "index.html" if page.name == "README.md" else f"{page.stem}.html"
    shown = site.pages[site.folder / name].pieces
    assert {tag: shown[tag] for tag in wanted} == dict(wanted)


def test_the_reference_shows_every_public_name_with_its_signature(site: Site) -> None:
    missing = []
    for group in reference.GROUPS:
        read = site.pages[site.folder / "reference" / f"{group.page}.html"]
        for name, module in reference.names_of(group).items():
            if f"{module}.{name}" not in read.ids:
                missing.append(name)
    assert missing == []
    jobs = re.sub(r"<[^>]*>", "", site.pages[site.folder / "reference" / "jobs.html"].text)
    assert re.search(r"connect\(\s*hub: str \| None = None,", jobs)


def test_the_page_of_commands_has_every_command_and_option(site: Site) -> None:
    text = re.sub(r"<[^>]*>", "", site.pages[site.folder / "reference" / "commands.html"].text)
    for words in (
        "fedjob node grants approve",
        "fedjob hub start",
        "fedjob job watch",
        "--min-rows",
        "--no-notebooks",
    ):
        assert (words in text) is (words != "--no-notebooks")


def test_every_page_and_notebook_is_found_by_the_search(site: Site) -> None:
    index = (site.folder / "search" / "search_index.json").read_text(encoding="utf-8")
    for page in [f"{page.stem}.html" for page in PAGES if page.name != "README.md"]:
        assert f'"location":"{page}"' in index
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        assert f'"location":"notebooks/{notebook.stem}.html"' in index


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[str]:
    """Serve the site on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *about: object) -> None:
            super().__init__(*about, directory=str(site.folder))  # type: ignore[arg-type]

        def log_message(self, *about: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_reader_searches_and_switches_to_dark_without_any_other_host(site: Site, server: str) -> None:
    """From a server and from a folder, on a telephone and on a screen."""
    with chromium() as browser:
        for base, host in ((f"http://{server}", server), (f"file://{site.folder}", "")):
            window = Watched(browser, host, viewport={"width": 1400, "height": 900}, color_scheme="light")
            page = window.page
            page.goto(f"{base}/index.html")
            page.keyboard.press("/")
            page.get_by_role("textbox", name="Search").press_sequentially("differential privacy")
            found = page.locator(".md-search-result__link").first
            found.wait_for()
            found.click()
            page.wait_for_url(re.compile(r"privacy\.html"))
            before = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.locator("label[title='Dark']:visible").click()
            assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
            assert window.wrong == []
            window.context.close()
        window = Watched(browser, server, viewport={"width": 320, "height": 700})
        for name in (
            "index",
            "concepts",
            "plans",
            "privacy",
            "reference/jobs",
            "reference/commands",
            "glossary",
        ):
            window.page.goto(f"http://{server}/{name}.html")
            assert window.width() <= 320, name
            pictures = (
                "[...document.querySelectorAll('article img')].every(i => i.complete && i.naturalWidth > 0)"
            )
            window.page.wait_for_function(pictures)
        assert window.wrong == []


def test_a_notebook_is_executed_once_for_its_text_and_again_when_it_changes(tmp_path: Path) -> None:
    path, runs = tmp_path / "one.ipynb", tmp_path / "runs"

    def write(*sources: str) -> None:
        cells = [nbformat.v4.new_markdown_cell("# One"), *map(nbformat.v4.new_code_cell, sources)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)

    write("import os", "print(6 * 7, os.getcwd())")
    notebooks.run_all([path], runs)
    (first,) = runs.iterdir()
    at = first.stat().st_mtime_ns
    (output,) = notebooks.page_of(path, runs).outputs.values()
    assert re.search(r"<pre>42 /tmp</pre>", output), output
    notebooks.run_all([path], runs)
    assert first.stat().st_mtime_ns == at
    write("6 * 9")
    assert notebooks.page_of(path, runs).outputs == {}
    notebooks.run_all([path], runs)
    (second,) = runs.iterdir()
    assert second != first
    assert list(notebooks.page_of(path, runs).outputs.values()) == [
        '<div class="notebook-output"><pre>54</pre></div>'
    ]
    write("1 / 0")
    with pytest.raises(ExceptionGroup) as failed:
        notebooks.run_all([path], runs)
    (error,) = failed.value.exceptions
    assert isinstance(error, CellExecutionError)
    assert "ZeroDivisionError" in str(error)
    assert list(runs.iterdir()) == [second]
