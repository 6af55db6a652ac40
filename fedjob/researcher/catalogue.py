"""What there is in a federation: nodes and their datasets, as lists that read well."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from fedjob.common.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node, as it is seen from here."""

    id: str
    online: bool
    version: str = ""
    num_datasets: int = 0
    busy: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetHandle:
    """A dataset at a node: a name to compute on, never the data."""

    node: str
    name: str
    tags: tuple[str, ...] = ()
    reader: str = ""
    num_rows: int = 0
    columns: tuple[dict[str, Any], ...] = ()
    has_mock: bool = False
    min_rows: int = 0
    description: str = ""
    contact: str = ""
    version: str = ""
    mock_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, str]:
        """Column name -> type."""
        return {str(column.get("name")): str(column.get("type")) for column in self.columns}

    def describe(self) -> dict[str, Any]:
        """Return everything that the node tells of it."""
        return {key: value for key, value in asdict(self).items() if key != "extra"} | self.extra

    def mock(self) -> Any:
        """Return the dataset's mock; fetching mocks comes with private and mock jobs.

        Raises:
            SpecError: the node registered none.
        """
        raise SpecError(f"{self.node}/{self.name} offers no mock to fetch")

    def __str__(self) -> str:
        return f"{self.node}/{self.name}"


T = TypeVar("T")


class Table(list[T]):
    """A list that shows itself as a table, in a terminal and in a notebook."""

    def __init__(self, items: Iterable[T], columns: Sequence[str]) -> None:
        super().__init__(items)
        self._columns = tuple(columns)

    def _cells(self) -> list[list[str]]:
        return [[_text(getattr(item, column)) for column in self._columns] for item in self]

    def __repr__(self) -> str:
        if not self:
            return "(none)"
        rows = [list(self._columns), *self._cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self._columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self._columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._cells()
        )
        return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(str(item) for item in value)
    return str(value)


def dataset_from_wire(node: str, info: dict[str, Any]) -> DatasetHandle:
    """Build a handle from what a node says, believing nothing about its types."""
    known = {"name", "tags", "reader", "num_rows", "columns", "has_mock", "min_rows"}
    columns = info.get("columns")
    return DatasetHandle(
        node=node,
        name=str(info.get("name", "")),
        tags=tuple(str(tag) for tag in info.get("tags") or ()),
        reader=str(info.get("reader", "")),
        num_rows=int(info.get("num_rows") or 0),
        columns=tuple(c for c in columns if isinstance(c, dict)) if isinstance(columns, list) else (),
        has_mock=bool(info.get("has_mock")),
        min_rows=int(info.get("min_rows") or 0),
        extra={key: value for key, value in info.items() if key not in known},
    )
