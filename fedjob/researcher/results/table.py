"""The table of a job's result: named columns, rows, and exports."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import checked_methods
from fedjob.common.errors import SpecError, printable_lines

SHOWN_ROWS = 20


@checked_methods
class ResultTable:
    """Columns and rows, made from a pandas DataFrame.

    Args:
        frame: of one node, or of several with a column `node`.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self._frame.columns]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows, without the index."""
        return list(self._frame.itertuples(index=False, name=None))

    @property
    def dataframe(self) -> Any:
        """The table as a pandas DataFrame of its own."""
        return self._frame.copy()

    def to_csv(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the table as csv and return the path.

        Args:
            force: replace what is there.

        Raises:
            SpecError: there is something already.
        """
        target = free_path(path, force=force)
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(self.rows)
        return target

    def __len__(self) -> int:
        return len(self._frame)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        shown = f"<table of {len(self)} rows: {', '.join(self.columns)}>\n{self._frame.head(SHOWN_ROWS)}"
        return printable_lines(shown)

    def _repr_html_(self) -> str:
        shown: str = self._frame.head(SHOWN_ROWS).to_html()
        return f"<b>{len(self)} rows: {html.escape(', '.join(self.columns))}</b>{shown}"


def frame_of(value: Any) -> Any:
    """Return a value as one DataFrame, if it is one or a map of several; else None.

    An index other than 0, 1, 2, ... becomes a column.
    """
    if type(value).__name__ == "DataFrame" and hasattr(value, "itertuples"):
        plain = type(value.index).__name__ == "RangeIndex" and value.index.start == 0
        return value if plain else value.reset_index()
    if isinstance(value, Mapping) and value and all(frame_of(item) is not None for item in value.values()):
        import pandas

        parts = [frame_of(item).assign(node=node) for node, item in value.items()]
        joined = pandas.concat(parts, ignore_index=True)
        return joined[["node", *(name for name in joined.columns if name != "node")]]
    return None


def free_path(path: str | Path, *, force: bool) -> Path:
    """Return where a file may be written; its folder is made.

    Raises:
        SpecError: there is something already.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise SpecError(f"{target} is a folder: name a file in it")
    if target.exists() and not force:
        raise SpecError(f"{target} exists already: choose another name, or force=True to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
