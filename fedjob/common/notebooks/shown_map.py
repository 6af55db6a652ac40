"""A map that a notebook shows as a table; in everything else it is a dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from fedjob.common.notebooks.html import panel, table

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


def _cells(item: Any) -> tuple[Any, ...]:
    if is_dataclass(item) and not isinstance(item, type):
        return tuple(getattr(item, entry.name) for entry in fields(item) if entry.repr)
    return (item,)
