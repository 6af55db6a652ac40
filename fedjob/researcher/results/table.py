"""The table of a job's result: named columns, rows, and exports."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import checked_methods
from fedjob.common.errors import SpecError
from fedjob.common.notebooks.report import Report
from fedjob.researcher.results.result_summary import named_table


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
        return str(self._report())

    def _repr_html_(self) -> str:
        return self._report()._repr_html_()

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return self._report().to_markdown()

    def to_latex(self) -> str:
        """Return the table as LaTeX, with the rules of the package booktabs."""
        return self._report().to_latex()

    def _report(self) -> Report:
        rows = f"{len(self)} row{'' if len(self) == 1 else 's'}"
        return Report(title=f"Table of {rows}", tables=[named_table("", self._frame)])


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
