"""Datasets that are tables, whatever file they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.common.readers.base import Dataset

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class TableDataset(Dataset):
    """A table. `option target` names the column that `arrays` gives as targets, the last by default."""

    @abstractmethod
    def read(self) -> pd.DataFrame:
        """Read the whole table."""

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return self.read()

    @property
    def num_rows(self) -> int:
        return len(self._frame)

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": str(name), "type": type_name(self._frame[name].dtype)} for name in self._frame]

    def frame(self) -> pd.DataFrame:
        """Return a copy of the table."""
        return self._frame.copy()

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (inputs, targets): float32 of shape (rows, columns), and the target column.

        What is missing is NaN in the inputs.

        Raises:
            SpecError: there is no such target, or an input column holds texts.
        """
        frame = self._frame
        names = [str(name) for name in frame]
        if len(names) < 2:
            raise SpecError(f"{self.path.name} has {len(names)} columns; inputs and a target are two")
        target = self.options.get("target", names[-1])
        if target not in names:
            raise SpecError(f"{self.path.name} has no column {target!r}; it has {', '.join(names)}")
        place = names.index(target)
        inputs = frame.drop(columns=frame.columns[place])
        texts = [str(name) for name in inputs if type_name(inputs[name].dtype) not in _NUMBERS]
        if texts:
            raise SpecError(
                f"{self.path.name}: column {texts[0]!r} does not hold numbers; use .frame() and encode it"
            )
        return inputs.to_numpy(dtype="float32", na_value=float("nan")), frame.iloc[:, place].to_numpy()

    @property
    def items(self) -> Sequence[dict[str, Any]]:
        records: list[dict[str, Any]] = self._frame.to_dict("records")
        return records


_NUMBERS = ("int", "float", "bool")
_KINDS = {"i": "int", "u": "int", "f": "float", "b": "bool", "M": "datetime", "m": "duration", "c": "complex"}


def type_name(dtype: Any) -> str:
    """Return a word for the type of a column, the same for every file format."""
    kind = getattr(dtype, "kind", "O")
    if str(dtype) == "category":
        return "category"
    return _KINDS.get(kind, "string")


def join_types(a: str, b: str) -> str:
    """Return the type of a column whose parts have these types."""
    if a == b:
        return a
    return "float" if {a, b} == {"int", "float"} else "string"
