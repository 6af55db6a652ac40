"""The reader of tables in text files, separated by commas or otherwise, compressed or not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError
from fedjob.data.readers.base import Dataset, Reader, flag, words
from fedjob.data.readers.table import TableDataset, check_table, join_types, type_name

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": r"\s+"}
_CHUNK_ROWS = 100_000


class CsvDataset(TableDataset):
    """A table in a text file."""

    def read(self) -> pd.DataFrame:
        import pandas as pd

        def load(**settings: Any) -> pd.DataFrame:
            return self.joined([pd.read_csv(file, **settings) for file in self.files])

        return self._parse(load)

    @cached_property
    def _summary(self) -> tuple[int, dict[str, str]]:
        """Count rows and join types piece by piece, so that memory stays bounded for a large file."""
        import pandas as pd

        def scan(**settings: Any) -> tuple[int, dict[str, str]]:
            rows, types = 0, dict[str, str]()
            for file in self.files:
                with pd.read_csv(file, chunksize=_CHUNK_ROWS, **settings) as chunks:
                    for chunk in chunks:
                        rows += len(chunk)
                        self.check_form(types or chunk, chunk, file)
                        for column in chunk:
                            found = type_name(chunk[column].dtype)
                            types[str(column)] = join_types(types.get(str(column), found), found)
            return rows, types

        found: tuple[int, dict[str, str]] = self._parse(scan)
        return found

    @property
    def num_rows(self) -> int:
        return len(self._frame) if "_frame" in self.__dict__ else self._summary[0]

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": name, "type": kind} for name, kind in self._summary[1].items()]

    def _parse(self, read: Any) -> Any:
        """Call `read` with the arguments of pandas that follow from the options.

        Raises:
            SpecError: the file can't be read as csv.
        """
        separator = self.options.get("separator", ",")
        settings: dict[str, Any] = {"sep": _SEPARATORS.get(separator, separator)}
        names = words(self.options, "names")
        if not flag(self.options, "header", default=not names):
            settings["header"] = None
        if "na" in self.options:
            settings["na_values"] = words(self.options, "na")
        if names:
            settings["names"] = names
        if "encoding" in self.options:
            settings["encoding"] = self.options["encoding"]
        try:
            if names:
                self._check_names(names, settings)
            result = read(**settings)
        except (ValueError, OSError, LookupError, EOFError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"{self.path} can't be read as csv: {error}") from error
        if not names and settings.get("header", 0) is None and hasattr(result, "columns"):
            result.columns = [str(number) for number in result.columns]
        return result

    def _check_names(self, names: list[str], settings: dict[str, Any]) -> None:
        import pandas as pd

        first = pd.read_csv(self.files[0], sep=settings["sep"], header=None, nrows=1)
        if len(first.columns) != len(names):
            raise SpecError(
                f"option names gives {len(names)} names, but {self.path.name} has "
                f"{len(first.columns)} columns"
            )


class CsvReader(Reader):
    """Opens csv files."""

    name: ClassVar[str] = "csv"
    opens: ClassVar[type[Dataset]] = CsvDataset
    options: ClassVar[Mapping[str, str]] = {
        "header": "yes or no: the first line names the columns (default yes, no with names)",
        "names": "column names, comma separated",
        "na": "texts that mean a missing value, comma separated, beside the usual ones",
        "separator": "the separator between columns: a character, tab, or space (default comma)",
        "encoding": "of the text (default utf-8)",
        "target": "the column that .arrays() gives as targets (default the last)",
    }

    def accept(self, path: Path) -> Path:
        return check_table(path, self.name)
