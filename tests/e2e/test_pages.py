"""Every page of the documentation, typed as it is printed, by a reader of a small federation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.federation import Federation, preferred_kind
from tests.e2e.reader import Reader, start_hospitals
from tests.pages import ROOT, Block, blocks, docstring_blocks, pages

pytestmark = pytest.mark.timeout(300)

ON_THE_DEMO = ("README.md",)
"""Pages whose Python needs the nodes of `fedjob demo --keep`: `test_readme.py` runs all of it there."""
PRINTED = {
    "analytics.md": (r"^intercept +[-\d.]+", r"^cp=4 "),
    "batches.md": (r"^0 +cleveland +\d+ +\d+ +[01] +\d", r"^\{'cleveland': \d+\.\d+, 'hungarian': "),
    "events.md": (
        r"^round 1 done$",
        r"^round 2 done$",
        r"^local 1 [\de.-]+$",
        r"^\['waiting', 'queued', 'starting', 'running', 'completed'\]$",
    ),
    "functions.md": (r"'mild': 1",),
    "inference.md": (r"^cleveland [\d.]+ \[\[",),
    "plans.md": (r"^\d+ +5 +before +accuracy +all +0\.\d+",),
    "speed.md": (r"^round 4 [\d.]+ s$", r"^va \{.*'total': .*'queued': ", r"^\d+\.\d+$"),
    "selection.md": (r"^\('\w+', '\w+'\)$",),
}
"""What a page has to have printed at its end, as regular expressions of whole lines."""
FEATURES = {"events.md": "TB-65"}
PAGES = [
    pytest.param(
        page,
        id=str(page.relative_to(ROOT)),
        marks=[pytest.mark.feature(FEATURES[page.name])] if page.name in FEATURES else [],
    )
    for page in pages()
    if any(block.runs for block in blocks(page))
]


DOCUMENTED = [path for path in sorted(ROOT.glob("fedjob/**/*.py")) if docstring_blocks(path)]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return the federation of the pages, started once."""
    with Federation(tmp_path_factory.mktemp("hospitals"), preferred_kind(), forked=True) as made:
        start_hospitals(made)
        yield made


@pytest.fixture
def reader(hospitals: Federation, tmp_path: Path) -> Iterator[Reader]:
    """Return a reader with an empty folder."""
    folder = tmp_path / "reader"
    folder.mkdir()
    with Reader(hospitals, folder) as made:
        yield made
    hospitals.tidy()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_prints(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        if block.language != "python" or page.name not in ON_THE_DEMO:
            reader.follow(block)
    missing = [
        text for text in PRINTED.get(page.name, ()) if not re.search(text, reader.said(), re.MULTILINE)
    ]
    assert not missing, reader.said()


@pytest.mark.parametrize("module", DOCUMENTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_docstring_run(module: Path, reader: Reader) -> None:
    for block in docstring_blocks(module):
        reader.follow(block)


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("python", "x = 1\n1 / 0", r"page.md:7.*page\.py\", line 8.*ZeroDivisionError"),
        ("bash", "fedjob job show job_there-is-none", r"page.md:7.*ended with \d"),
        ("bash", "fedjob job list | grep nothing-like-it", r"page.md:7.*ended with 1"),
    ],
)
def test_a_block_that_does_not_run_is_named_with_its_line(
    language: str, text: str, said: str, reader: Reader
) -> None:
    with pytest.raises(AssertionError) as caught:
        reader.follow(Block("page.md", 7, language, "", text))
    assert re.search(said, str(caught.value), re.DOTALL)
