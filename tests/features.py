"""Count, family by family, the rows of tests/features.txt that a test claims, and list the others.

A test claims rows with `@pytest.mark.feature("FB-20", "FB-22")`. Run as `make features`.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROWS_PATH = Path(__file__).with_name("features.txt")


def rows() -> dict[str, str]:
    """Return id -> title of every row, in the file's order."""
    lines = ROWS_PATH.read_text(encoding="utf-8").splitlines()
    named = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {row: title for row, _, title in named}


def claims(items: Iterable[pytest.Item]) -> Iterator[tuple[str, str]]:
    """Yield (row id, test) for every claim that these tests make."""
    for item in items:
        for marker in item.iter_markers("feature"):
            for row in marker.args:
                yield row, item.nodeid


class _Collector:
    """A pytest plugin that keeps the claims of all tests found."""

    def __init__(self) -> None:
        self.claimed: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for row, test in claims(session.items):
            self.claimed.setdefault(row, set()).add(test)


def main() -> int:
    """Print the rows that are not shown by a test, then one line per family."""
    collector = _Collector()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["--collect-only", "-qq", "-p", "no:randomly"], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(said.getvalue(), file=sys.stderr)
        return int(status)

    titles = rows()
    families: dict[str, list[str]] = {}
    for row in titles:
        families.setdefault(row.split("-")[0], []).append(row)
    print("not shown by a test:")
    for ids in families.values():
        for row in ids:
            if row not in collector.claimed:
                print(f"  {row}  {titles[row]}")
    print("shown by a test:")
    for family, ids in families.items():
        print(f"{family}: {sum(row in collector.claimed for row in ids)}/{len(ids)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
