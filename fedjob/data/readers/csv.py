"""The reader of tables in text files, separated by commas or otherwise, compressed or not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.data.readers.base import Dataset, Reader
from fedjob.data.readers.table import TableDataset, check_table
from fedjob.data.readers.text_layout import TEXT_OPTIONS
from fedjob.data.readers.text_table import TextTable

if TYPE_CHECKING:
    import pandas as pd


class CsvDataset(TableDataset):
    """A table in a text file."""

    @cached_property
    def _text(self) -> TextTable:
        return TextTable(self.files, self.options)

    def read(self) -> pd.DataFrame:
        return self._text.read()

    @property
    def num_rows(self) -> int:
        return self._text.num_rows

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": name, "type": type_} for name, type_ in self._text.types.items()]

    def texts(self, column: str) -> pd.Series[Any]:
        return self._text.texts(column)

    @property
    def notes(self) -> list[str]:
        return self._text.notes


class CsvReader(Reader):
    """Opens csv files."""

    name: ClassVar[str] = "csv"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = CsvDataset
    options: ClassVar[Mapping[str, str]] = {
        **TEXT_OPTIONS,
        "target": "the column that .arrays() gives as targets (default the last)",
    }

    def accept(self, path: Path) -> Path:
        return check_table(path, self.name)
