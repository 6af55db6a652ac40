"""The reader of parquet tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError
from fedjob.data.readers.base import Dataset, Reader
from fedjob.data.readers.table import TableDataset, check_table

if TYPE_CHECKING:
    import pandas as pd


class ParquetDataset(TableDataset):
    """A table in a parquet file."""

    def read(self) -> pd.DataFrame:
        import pandas as pd

        try:
            return self.joined([pd.read_parquet(file) for file in self.files])
        except (ValueError, OSError) as error:
            raise SpecError(f"{self.path} can't be read as parquet: {error}") from error

    @cached_property
    def _footer(self) -> tuple[int, Any]:
        """The number of rows and the schema, read without the data."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows, schema = 0, None
            for path in self.files:
                with pq.ParquetFile(path) as file:
                    rows += file.metadata.num_rows
                    schema = schema or file.schema_arrow
                    self.check_form(schema.names, file.schema_arrow.names, path)
            return rows, schema
        except (pa.ArrowException, OSError) as error:
            raise SpecError(f"{self.path} can't be read as parquet: {error}") from error

    @property
    def num_rows(self) -> int:
        return int(self._footer[0])

    @property
    def columns(self) -> list[dict[str, str]]:
        return [
            {"name": str(column.name), "type": _word(str(column.type))}
            for column in self._footer[1]
            if not column.name.startswith("__index_level_")
        ]


def _word(arrow_type: str) -> str:
    if arrow_type == "bool":
        return "bool"
    if arrow_type.startswith(("int", "uint")):
        return "int"
    if arrow_type.startswith(("float", "double", "halffloat")):
        return "float"
    if arrow_type.startswith(("timestamp", "date")):
        return "datetime"
    if arrow_type.startswith("dictionary"):
        return "category"
    return "string"


class ParquetReader(Reader):
    """Opens parquet files."""

    name: ClassVar[str] = "parquet"
    opens: ClassVar[type[Dataset]] = ParquetDataset
    options: ClassVar[Mapping[str, str]] = {
        "target": "the column that .arrays() gives as targets (default the last)",
    }

    def accept(self, path: Path) -> Path:
        return check_table(path, self.name)
