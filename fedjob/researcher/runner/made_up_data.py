"""Tables with the columns that a node publishes and values that nobody has, to try a plan on.

Nothing is known of the real values. What a plan does may depend on them: categories become columns, constant columns
are dropped, rows are filtered. So there are tables of very different kinds, and only what happens with all of them
alike says something about the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedjob.data.readers.table import TableDataset

KINDS = ("mixed", "zeros", "ones", "equal", "gaps")
TYPES = ("int", "float", "bool", "string")
"""Types of columns of which values can be made up."""

_FEW_ROWS, _MANY_ROWS = 24, 210


class AbsentColumns(str):
    """The columns that were taken from a table that has all of its published columns and no other, as a KeyError has."""

    __slots__ = ()


class MadeUpFrame(pd.DataFrame):  # type: ignore[misc]
    """A table that tells a column which its dataset does not have from one that depends on values."""

    _published: tuple[str, ...] = ()
    _metadata = ["_published"]  # noqa: RUF012 - pandas asks for a list

    @property
    def _constructor(self) -> Any:
        return MadeUpFrame

    def __getitem__(self, key: Any) -> Any:
        wanted = [key] if isinstance(key, str) else key
        if isinstance(wanted, list) and tuple(map(str, self.columns)) == self._published:
            absent = [name for name in wanted if isinstance(name, str) and name not in self._published]
            if absent:
                raise KeyError(AbsentColumns(", ".join(map(repr, absent))))
        return super().__getitem__(key)


class MadeUpTable(TableDataset):
    """A dataset of one made-up table.

    Args:
        table: the values.
        target: the column that `arrays` gives as targets.
    """

    def __init__(self, table: pd.DataFrame, target: str) -> None:
        super().__init__(Path("made-up"), {"target": target}, name="made-up")
        self._table = table

    def read(self) -> pd.DataFrame:
        """Return the whole table."""
        return self._table

    def frame(self) -> pd.DataFrame:
        """Return a copy of the table."""
        frame = MadeUpFrame(self._table.copy())
        frame._published = tuple(map(str, frame.columns))
        return frame


def made_up_tables(schema: Mapping[str, str]) -> Iterator[MadeUpTable]:
    """Yield a table of every kind, with a target of every type that there is: which column is one is not published.

    Args:
        schema: column -> one of `TYPES`.
    """
    last = list(schema)[-1]
    of_type = {type_: column for column, type_ in schema.items()}  # the last of each type
    targets = [last, *(column for column in of_type.values() if column != last)]
    for kind in KINDS:
        table = _table(schema, kind)
        for target in targets:
            yield MadeUpTable(table, target)


def _table(schema: Mapping[str, str], kind: str) -> pd.DataFrame:
    num_rows = _MANY_ROWS if kind == "ones" else _FEW_ROWS
    draw = np.random.default_rng(7)
    columns = {}
    for place, (name, type_) in enumerate(schema.items()):
        columns[name] = _column(type_, kind, num_rows, draw, place)
    return pd.DataFrame(columns)


def _column(type_: str, kind: str, num_rows: int, draw: np.random.Generator, place: int) -> pd.Series[Any]:
    numbers = {
        "zeros": np.zeros(num_rows, dtype="int64"),
        "ones": np.ones(num_rows, dtype="int64"),
        "equal": np.arange(num_rows) % 2,
    }.get(kind, draw.integers(0, 3 + place % 5, num_rows))
    if type_ == "string":
        values: Any = pd.Series([f"{'abcdefgh'[number % 8]}" for number in numbers], dtype=object)
    elif type_ == "float":
        noise = draw.normal(size=num_rows) if kind in ("mixed", "gaps") else 0.0
        values = pd.Series(numbers + noise, dtype="float64")
    else:
        values = pd.Series(numbers % 2 == 1 if type_ == "bool" else numbers)
    if kind != "gaps":
        return values
    values = values.astype({"int": "Int64", "bool": "boolean"}.get(type_, values.dtype))
    values.iloc[place % num_rows] = None if type_ == "string" else (np.nan if type_ == "float" else pd.NA)
    return values
