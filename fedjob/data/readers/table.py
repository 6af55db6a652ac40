"""The base of all datasets that are tables, whatever file they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import EmptyData, SpecError, UnreadableData
from fedjob.data.column_types import numeric_array, texts_of
from fedjob.data.leftovers import listed
from fedjob.data.readers.base import Dataset, ItemIdentity, files_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fedjob.data.readers.loading_plan import LoadingPlan


class TableDataset(Dataset):
    """A table in a file, or in a folder of files with the same columns.

    The files of a folder are read as one table, in the order of their names. Option `target` names the column
    that `arrays` gives as targets, the last by default.
    """

    @cached_property
    def files(self) -> list[Path]:
        """The files that the table is in."""
        return list(files_of(self.path))

    def check_form(self, first: Iterable[Any], other: Iterable[Any], file: Path) -> None:
        """Check that a file has the columns of the first file.

        Args:
            first, other: the columns of the first file and of `file`.

        Raises:
            UnreadableData: the columns differ; the message names both lists.
        """
        wanted, found = [str(name) for name in first], [str(name) for name in other]
        if wanted != found:
            raise UnreadableData(
                f"{file.name} has columns {', '.join(found)[:200]}; expected those of {self.files[0].name}: "
                f"{', '.join(wanted)[:200]}"
            )

    def joined(self, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Return the tables of all files as one, each column with the type that all its values have in common."""
        import pandas as pd

        for file, frame in zip(self.files, frames, strict=True):
            self.check_form(frames[0], frame, file)
        if len(frames) == 1:
            return frames[0]
        parts = [frame.copy(deep=False) for frame in frames]
        for name in frames[0]:
            types = [type_name(frame[name].dtype) for frame in frames]
            if common_form(types) == "string" and set(types) != {"string"}:
                for part in parts:
                    part[name] = texts_of(part[name])
        return pd.concat(parts, ignore_index=True)

    @abstractmethod
    def read(self) -> pd.DataFrame:
        """Read the whole table."""

    made_of_another: ClassVar[bool] = False
    """True if the table is made of another one, and may have no rows of it."""

    @cached_property
    def _frame(self) -> pd.DataFrame:
        frame = self.read()
        if not len(frame) and not self.made_of_another:
            raise EmptyData(f"{self.path.name} has no rows: expected one or more")
        return frame

    @property
    def num_rows(self) -> int:
        return len(self._frame)

    @property
    def rows_read(self) -> int | None:
        return len(self._frame) if "_frame" in self.__dict__ else None

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": str(name), "type": type_name(self._frame[name].dtype)} for name in self._frame]

    def frame(self) -> pd.DataFrame:
        """Return a copy of the table.

        Raises:
            EmptyData: the files have no rows.

        Whole numbers and truth values with gaps have pandas' types Int64 and boolean, and `pandas.NA` where one is
        missing: `frame.to_numpy(dtype="float32")` makes NaN of it.
        """
        return self._frame.copy()

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (inputs, targets): float32 of shape (rows, columns), and the target column.

        Missing values are NaN in the inputs, and in a target of numbers or truth values.

        Raises:
            EmptyData: the table has no rows.
            SpecError: there is no such target, or an input column holds texts.
        """
        import numpy as np

        frame = self._frame
        if not len(frame):
            raise EmptyData(f"{self.path.name} has no rows")
        names = [str(name) for name in frame]
        if len(names) < 2:
            raise SpecError(
                f"{self.path.name} has {len(names)} columns; expected two or more, inputs and a target"
            )
        target = self.options.get("target", names[-1])
        if target not in names:
            raise SpecError(f"{self.path.name} has no column {target!r}; it has {', '.join(names)}")
        place = names.index(target)
        inputs = frame.drop(columns=frame.columns[place])
        texts = [str(name) for name in inputs if type_name(inputs[name].dtype) not in _NUMBERS]
        if texts:
            raise SpecError(
                f"{self.path.name}: column {texts[0]!r} does not hold numbers; use .frame() and encode it, or leave it out by "
                "preprocess=[Select([...])]"
            )
        # copies, because the arrays that pandas returns otherwise are read-only
        given = inputs.to_numpy(dtype="float32", na_value=np.nan, copy=True)
        return given, numeric_array(frame.iloc[:, place])

    @property
    def items(self) -> Sequence[dict[str, Any]]:
        """The rows, as dictionaries of Python's own values; NaN where one is missing."""
        return records_of(self._frame)

    def source(self) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
        """Return the table as its files hold it, and the positions in it of the rows of `frame`.

        Raises:
            SpecError: preprocessing changes values in the rows, so that the two can't be compared.
        """
        import numpy as np

        return self._frame, np.arange(len(self._frame))

    def identities(self) -> list[ItemIdentity]:
        """Return the identity of each row: a hash of its values, and the number of equal rows before it."""
        from pandas.util import hash_pandas_object

        hashes = hash_pandas_object(self._frame.astype(str), index=False)
        counts = hashes.groupby(hashes).cumcount()
        return [
            ItemIdentity(f"{value:016x}{f'-{count}' if count else ''}")
            for value, count in zip(hashes.tolist(), counts.tolist(), strict=True)
        ]

    def named(self, plan: LoadingPlan) -> TableDataset:
        if plan.modalities:
            raise SpecError(f"dataset {self.name or self.path.name} is a table: it has no modalities to name")
        return _NamedTable(self, plan)

    def take(self, places: Sequence[int]) -> TableDataset:
        return _TakenTable(self, places)


class _NamedTable(TableDataset):
    """A table under the names of a loading plan."""

    made_of_another: ClassVar[bool] = True

    def __init__(self, source: TableDataset, plan: LoadingPlan) -> None:
        super().__init__(source.path, source.options, name=source.name, tags=source.tags)
        self.assets = source.assets
        self._source = source
        self._names = plan.new_names([str(column["name"]) for column in source.columns])

    @property
    def num_rows(self) -> int:
        return self._source.num_rows

    @property
    def rows_read(self) -> int | None:
        return self._source.rows_read

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{**column, "name": self._names[column["name"]]} for column in self._source.columns]

    @property
    def notes(self) -> list[str]:
        return self._source.notes

    def read(self) -> pd.DataFrame:
        return self._source.frame().rename(columns=self._names)

    def texts(self, column: str) -> pd.Series[Any]:
        own = {given: name for name, given in self._names.items()}
        return self._source.texts(own.get(column, column))


class _TakenTable(TableDataset):
    """Some rows of a table."""

    made_of_another: ClassVar[bool] = True

    def __init__(self, source: TableDataset, places: Sequence[int]) -> None:
        super().__init__(source.path, source.options, name=source.name, tags=source.tags)
        self.assets = source.assets
        self._source = source
        self._places = list(places)

    @property
    def rows_read(self) -> int | None:
        return super().rows_read if self.is_share else self._source.rows_read

    def read(self) -> pd.DataFrame:
        return self._source._frame.iloc[self._places].reset_index(drop=True)

    def texts(self, column: str) -> pd.Series[Any]:
        return self._source.texts(column).iloc[self._places].reset_index(drop=True)

    def source(self) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
        frame, kept = self._source.source()
        return frame, kept[self._places]

    def origin(self) -> tuple[Dataset, np.ndarray[Any, Any]]:
        root, kept = self._source.origin()
        return root, kept[self._places]

    def identities(self) -> list[ItemIdentity]:
        identities = self._source.identities()  # equal rows differ by their order in the whole table
        return [identities[place] for place in self._places]


_NUMBERS = ("int", "float", "bool")
_KINDS = {"i": "int", "u": "int", "f": "float", "b": "bool", "M": "datetime", "m": "duration", "c": "complex"}


def type_name(dtype: Any) -> str:
    """Return the name of a column's type, the same for every file format."""
    kind = getattr(dtype, "kind", "O")
    if str(dtype) == "category":
        return "category"
    return _KINDS.get(kind, "string")


def common_form(types: Sequence[str]) -> str:
    """Return the type of a column whose parts have these types."""
    found = set(types)
    if len(found) == 1:
        return types[0]
    return "float" if found == {"int", "float"} else "string"


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries of Python's own values; NaN where one is missing."""
    import numpy as np

    plain = frame.astype({name: object for name in frame if type_name(frame[name].dtype) in ("int", "bool")})
    records: list[dict[str, Any]] = plain.where(plain.notna(), np.nan).to_dict("records")
    return records


def check_table(path: Path, reader: str) -> Path:
    """Return a path that is a file, or a folder of files without folders.

    Raises:
        SpecError: it is neither.
    """
    inside = listed(path) if path.is_dir() else [path]
    if not inside or any(child.is_dir() for child in inside):
        raise SpecError(
            f"reader {reader} reads a file, or a folder of files without folders; {path} is neither"
        )
    return path
