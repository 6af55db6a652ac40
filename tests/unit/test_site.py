"""The site of the docs: what mkdocs is given is complete, and what a code host reads is adapted to it."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docs.site import files, hooks, notebooks, reference
from docs.site.links import ROOT, outside_code, place, rewritten, targets

CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def navigation() -> list[str]:
    """Return the pages that stand in `nav` of mkdocs.yml."""
    return re.findall(r"([\w/]+\.md)\s*(?:#.*)?$", CONFIG.partition("\nnav:\n")[2], re.MULTILINE)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_a_page_of_the_docs_stands_once_in_the_navigation(page: Path) -> None:
    assert navigation().count(page.name) == 1, (
        f"docs/{page.name} is not in the navigation: give it a line in `nav` of mkdocs.yml, where its readers look"
    )


def test_the_navigation_names_no_page_that_is_not_there() -> None:
    assert [name for name in navigation() if not (ROOT / "docs" / name).exists()] == []


def test_a_newcomer_has_few_entries_to_choose_from() -> None:
    entries = re.findall(r"^  - (.+?):", CONFIG.partition("\nnav:\n")[2], re.MULTILINE)
    assert len(entries) <= 7
    assert entries[0] == "Start"


# ---------------------------------------------------------------- the reference


def test_every_public_name_stands_on_one_page_of_the_reference() -> None:
    found = Counter(name for group in reference.GROUPS for name in reference.names_of(group))
    assert found == Counter(dict.fromkeys(reference.public_names(), 1))


def test_no_page_of_the_reference_is_empty() -> None:
    assert [group.page for group in reference.GROUPS if not reference.names_of(group)] == []


def test_a_module_that_no_page_takes_is_named() -> None:
    with pytest.raises(LookupError, match=r"fedjob\.teleport\.beam: add it to GROUPS"):
        reference.group_of("fedjob.teleport.beam")


def test_every_public_name_is_explained_in_one_line() -> None:
    silent = [
        name for name, module in reference.public_names().items() if not reference.first_line(module, name)
    ]
    assert silent == []


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("docs/plans.md", "plans.md"),
        ("docs/round.svg", "round.svg"),
        ("notebooks/01_first_job.ipynb", "notebooks/01_first_job.md"),
        ("notebooks", "notebooks/index.md"),
        ("README.md", "files/README.md"),
        ("examples/screening.py", "files/examples/screening.py.md"),
        ("envs/nginx", "files/envs/nginx/index.md"),
        ("examples/flamby_heart", "files/examples/flamby_heart/README.md"),
        (".importlinter", "files/.importlinter.md"),
    ],
)
def test_a_file_of_the_checkout_has_its_place_in_the_site(path: str, source: str) -> None:
    assert place(path) == source


def test_links_of_a_page_lead_to_where_their_targets_stand() -> None:
    text = (
        "See [plans](plans.md#a-plan), [a notebook](../notebooks/01_first_job.ipynb), [one file](../examples/screening.py),\n"
        "[far](https://example.org/x.md), [here](#there), [![a [b]](../docs/round.svg)](../README.md#read-on), [gone](nowhere.md).\n"
        "```text\n[plans](../README.md)\n```\n"
    )
    assert rewritten(text, "docs/life.md") == (
        "See [plans](plans.md#a-plan), [a notebook](notebooks/01_first_job.md), [one file](files/examples/screening.py.md),\n"
        "[far](https://example.org/x.md), [here](#there), [![a [b]](round.svg)](files/README.md#read-on), [gone](nowhere.md).\n"
        "```text\n[plans](../README.md)\n```\n"
    )
    assert list(targets(text, "docs/life.md"))[:2] == ["docs/plans.md", "notebooks/01_first_job.ipynb"]


def test_links_from_below_lead_up() -> None:
    assert rewritten("[plans](../docs/plans.md)", "notebooks/x.ipynb") == "[plans](../plans.md)"
    assert rewritten("[h](docs/hub_api.md)", "README.md") == "[h](../hub_api.md)"


@pytest.mark.parametrize(
    "target", ["../../etc/passwd", "../../../x.md", "//example.org/x.md", "javascript:x"]
)
def test_no_link_leads_out_of_the_checkout(target: str) -> None:
    assert list(targets(f"[x]({target})", "docs/life.md")) == []


def test_code_is_left_as_it_is() -> None:
    text = "a\n````python\nb\n```\nc\n````\nd\n"
    assert outside_code(text, str.upper) == "A\n````python\nb\n```\nc\n````\nD\n"


def test_the_name_of_a_file_behind_a_fence_is_the_title_of_its_block() -> None:
    text = "```python heart.py\nx\n```\n```console by hand\nls\n```\n```bash\nls\n```\n"
    assert hooks.with_titles(text) == (
        '```python title="heart.py"\nx\n```\n```console\nls\n```\n```bash\nls\n```\n'
    )


def test_a_file_whose_text_holds_fences_is_shown_whole() -> None:
    shown = files.markdown_of("tests/pages.py")
    assert shown.startswith("# tests/pages.py\n\n````python\n")
    assert shown.endswith("\n````\n")


def test_a_folder_is_shown_as_links_to_what_is_in_it() -> None:
    shown = files.markdown_of("examples")
    assert "- [screening.py](screening.py)" in shown
    assert list(targets(shown, "examples/index.md"))


# ---------------------------------------------------------------- notebooks


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Any]:
    """Return a notebook and what a run of it gave."""
    pixel = base64.b64encode(b"\x89PNG pixels").decode()
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="\x1b[31m10 %\r100 %\x1b[0m <done>\n"),
        nbformat.v4.new_output(
            "display_data", {"text/html": "<table><tr><td>\n\n1</td></tr></table>", "text/plain": "1"}
        ),
        nbformat.v4.new_output("display_data", {"image/png": pixel, "text/plain": '<Figure "1">'}),
        nbformat.v4.new_output("execute_result", {"text/plain": "a < b"}, execution_count=1),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nTwo clinics add. And more."),
        nbformat.v4.new_code_cell("print(1)", outputs=outputs),
        nbformat.v4.new_code_cell("x = 2"),
    ]
    executed = nbformat.v4.new_notebook(cells=cells)
    plain = nbformat.from_dict(json.loads(nbformat.writes(executed)))
    plain.cells[1].outputs = []
    path = tmp_path / "one.ipynb"
    nbformat.write(plain, path)
    (tmp_path / "runs").mkdir()
    return path, executed


def test_a_notebook_is_a_page_with_the_outputs_of_its_run(run: tuple[Path, Any]) -> None:
    path, executed = run
    nbformat.write(executed, path.parent / "runs" / "one.0123.ipynb")
    page = notebooks.page_of(path, path.parent / "runs")
    assert page.text.startswith(
        "# A title\n\n*This page is the notebook `notebooks/one.ipynb` with the outputs"
    )
    assert "````python\nprint(1)\n````" in page.text
    (mark, output), *_ = page.outputs.items()
    assert len(page.outputs) == 1
    assert f'<div id="{mark}"></div>' in page.text
    assert "<pre>100 % &lt;done&gt;</pre>" in output
    assert "<table><tr><td>\n\n1</td></tr></table>" in output
    assert "<pre>a &lt; b</pre>" in output
    assert list(page.pictures.values()) == [b"\x89PNG pixels"]
    assert '<img src="one-1-2.png" alt="&lt;Figure &quot;1&quot;&gt;">' in output
    assert hooks.opening(page.text) == ("A title", "Two clinics add.")


def test_a_notebook_without_a_run_says_so(run: tuple[Path, Any]) -> None:
    page = notebooks.page_of(run[0], run[0].parent / "runs")
    assert "without outputs" in page.text
    assert (page.outputs, page.pictures) == ({}, {})


def test_the_run_of_another_text_is_not_shown(run: tuple[Path, Any]) -> None:
    path, executed = run
    executed.cells[2].source = "x = 3"
    nbformat.write(executed, path.parent / "runs" / "one.0123.ipynb")
    assert "without outputs" in notebooks.page_of(path, path.parent / "runs").text


def test_a_changed_notebook_or_package_has_another_fingerprint(tmp_path: Path) -> None:
    one, other = tmp_path / "one.ipynb", tmp_path / "other.ipynb"
    one.write_text("1")
    other.write_text("2")
    assert notebooks.fingerprint(one) == notebooks.fingerprint(one)
    assert notebooks.fingerprint(one) != notebooks.fingerprint(other)


def test_the_scripts_of_the_theme_keep_no_address_that_they_would_load() -> None:
    text = 'a("https://unpkg.com/mermaid@11/dist/mermaid.min.js");b(`https://api.github.com/repos/${c}`)'
    assert hooks.FOREIGN.sub("about:blank", text) == 'a("about:blank");b(`about:blank`)'


def test_the_machinery_of_the_site_imports_no_torch() -> None:
    found = {
        name.split(".")[0]
        for path in (ROOT / "docs" / "site").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not found & {"torch", "pandas", "sklearn", "matplotlib"}
