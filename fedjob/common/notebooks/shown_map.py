"""Maps and tuples that are shown as tables; in everything else they are a dict and a tuple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from fedjob.common.notebooks.html import note, panel, table
from fedjob.common.notebooks.plain_tables import text_table

K = TypeVar("K")
V = TypeVar("V")


class ShownMap(dict[K, V]):
    """A dict with a form for notebooks.

    Args:
        header: the words for its keys, and for its values or, where these are records, for each of their fields.
    """

    def __init__(self, items: Mapping[K, V], header: Sequence[str]) -> None:
        super().__init__(items)
        self._header = tuple(header)

    def _repr_html_(self) -> str:
        return panel("", table(self._header, [(key, *_cells(item)) for key, item in self.items()]))


class ShownRows(tuple[V, ...]):
    """A tuple of records of one kind that shows itself as a table, a row for each.

    A field whose metadata has `shown`, a function of its value, is shown as what that returns.
    """

    __slots__ = ()

    def _header(self) -> list[str]:
        return [entry.name for entry in fields(self[0]) if entry.repr]  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return text_table(self._header(), map(_cells, self)) if self else "(none)"

    def _repr_html_(self) -> str:
        return panel("", table(self._header(), map(_cells, self)) if self else note("none"))


def _cells(item: Any) -> tuple[Any, ...]:
    if is_dataclass(item) and not isinstance(item, type):
        return tuple(
            entry.metadata.get("shown", lambda value: value)(getattr(item, entry.name))
            for entry in fields(item)
            if entry.repr
        )
    return (item,)
