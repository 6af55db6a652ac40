"""The reader of parquet tables.

A named index that pandas wrote is a column, before the others; an index without a name is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import UnreadableData
from fedjob.data.readers.base import Dataset, Reader
from fedjob.data.readers.table import TableDataset, check_table, common_form

if TYPE_CHECKING:
    import pandas as pd


class ParquetDataset(TableDataset):
    """A table in a parquet file."""

    def read(self) -> pd.DataFrame:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            frames = []
            for path in self.files:
                with pq.ParquetFile(path) as file:
                    table = file.read()
                frames.append(_frame_of(table.select(_places(table.schema))))
            return self.joined(frames)
        except (pa.ArrowException, ValueError, OSError) as error:
            if isinstance(error, UnreadableData):
                raise
            raise UnreadableData(f"{self.path} can't be read as parquet: {error}") from error

    @cached_property
    def _footer(self) -> tuple[int, dict[str, str]]:
        """The number of rows, and column -> type, read without the data."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows, types = 0, list[dict[str, str]]()
            for path in self.files:
                with pq.ParquetFile(path) as file:
                    rows += file.metadata.num_rows
                    schema = file.schema_arrow
                    own = [schema.field(place) for place in _places(schema)]
                    types.append({column.name: _type_name(column.type) for column in own})
                self.check_form(types[0], types[-1], path)
            return rows, {name: common_form([own[name] for own in types]) for name in types[0]}
        except (pa.ArrowException, OSError) as error:
            raise UnreadableData(f"{self.path} can't be read as parquet: {error}") from error

    @property
    def num_rows(self) -> int:
        return self._footer[0]

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": name, "type": type_} for name, type_ in self._footer[1].items()]


def _places(schema: Any) -> list[int]:
    """Return the places of the columns, in their order.

    Raises:
        UnreadableData: two columns have one name.
    """
    names = list(map(str, schema.names))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnreadableData(f"two columns are called {twice[0]!r}: write the file with other names")
    index = (schema.pandas_metadata or {}).get("index_columns", ())
    first = [names.index(name) for name in index if isinstance(name, str) and name in names]
    own = [*first, *(place for place in range(len(names)) if place not in first)]
    return [place for place in own if not names[place].startswith("__index_level_")]


def _frame_of(table: Any) -> pd.DataFrame:
    """Return a table of arrow as one of pandas; whole numbers and truth values with gaps stay such."""
    import pandas as pd

    columns = {name: _column_of(table.column(place)) for place, name in enumerate(table.column_names)}
    return pd.DataFrame(columns, columns=table.column_names)


def _column_of(column: Any) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    is_, kind = pa.types, column.type
    if is_.is_null(kind):
        return pd.Series([float("nan")] * len(column), dtype="float64")
    if is_.is_decimal(kind):
        column = column.cast({"int": pa.int64(), "float": pa.float64()}.get(_type_name(kind), pa.string()))
    elif is_.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    kind = column.type
    if column.null_count and (is_.is_integer(kind) or is_.is_boolean(kind)):
        dtype = pd.BooleanDtype() if is_.is_boolean(kind) else _nullable(str(kind))
        return pd.Series(column.to_pandas(types_mapper={kind: dtype}.get))
    return pd.Series(column.to_pandas())


def _nullable(kind: str) -> Any:
    import pandas as pd

    return pd.array([], dtype=kind.replace("i", "I", 1).replace("u", "U", 1)).dtype


def _type_name(kind: Any) -> str:
    """Return the name of a column's type, the same as `type_name` gives for the column that is read."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_boolean(kind):
        return "bool"
    if is_.is_integer(kind):
        return "int"
    if is_.is_decimal(kind):  # whole numbers that no int64 holds are identifiers
        return "float" if kind.scale > 0 else "int" if kind.precision <= 18 and kind.scale == 0 else "string"
    if is_.is_floating(kind) or is_.is_null(kind):
        return "float"
    if is_.is_timestamp(kind) or is_.is_date(kind):
        return "datetime"
    if is_.is_duration(kind):
        return "duration"
    return "category" if is_.is_dictionary(kind) else "string"


class ParquetReader(Reader):
    """Opens parquet files."""

    name: ClassVar[str] = "parquet"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = ParquetDataset
    options: ClassVar[Mapping[str, str]] = {
        "target": "the column that .arrays() gives as targets (default the last)",
    }

    def accept(self, path: Path) -> Path:
        return check_table(path, self.name)
