"""Every page of the documentation, typed as it is printed, by a reader of a small federation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.federation import Federation, preferred_kind
from tests.e2e.reader import Reader, start_hospitals
from tests.pages import ROOT, blocks, pages

pytestmark = pytest.mark.timeout(300)

RUNNING = [page for page in pages() if any(block.runs for block in blocks(page))]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return the federation of the pages, started once."""
    with Federation(tmp_path_factory.mktemp("hospitals"), preferred_kind()) as made:
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


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_prints(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        reader.follow(block)
