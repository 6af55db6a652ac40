"""Steps that choose, order and convert columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.data.column_types import texts_of
from fedjob.data.preprocessing.base import TableStep, names_of, need

if TYPE_CHECKING:
    import pandas as pd

_TYPES = ("float", "int", "bool", "str")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Select(TableStep):
    """Keep these columns, in this order; the plan sees no other.

    Args:
        columns: one name or several.
    """

    name: ClassVar[str] = "select"
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "columns", names_of(self.columns, "Select"))

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, self.columns, "Select")
        return frame[list(self.columns)]


@dataclass(frozen=True, slots=True)
class Target(TableStep):
    """Move a column to the end, where `dataset.arrays()` takes the targets from."""

    name: ClassVar[str] = "target"
    column: str

    def __post_init__(self) -> None:
        check_kinds(self)
        names_of(self.column, "Target")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, [self.column], "Target")
        return frame[[*(name for name in frame.columns if name != self.column), self.column]]


@dataclass(frozen=True, slots=True)
class Cast(TableStep):
    """Turn columns into another type.

    Missing values stay missing in `float` and `str`; the other types have none.

    Args:
        to: `float`, `int`, `bool` or `str`. Texts become truth values where they are true, false, 1 or 0; numbers
            become the text that names them as categories, 1.0 the text `1`.
    """

    name: ClassVar[str] = "cast"
    columns: tuple[str, ...]
    to: str

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "columns", names_of(self.columns, "Cast"))
        if self.to not in _TYPES:
            raise SpecError(f"Cast(to=...) takes {', '.join(_TYPES)}, not {shown(self.to)}")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, self.columns, "Cast")
        try:
            return frame.assign(**{name: self._cast(frame[name]) for name in self.columns})
        except (ValueError, TypeError) as error:  # whose message may quote values
            raise SpecError(
                f"Cast: {', '.join(self.columns)} can't be turned into {self.to}: impute what is missing first, "
                "or choose another type"
            ) from error

    def _cast(self, column: pd.Series[Any]) -> pd.Series[Any]:
        if self.to == "str":
            return texts_of(column).set_axis(column.index)
        if self.to == "float":
            return column.astype("float64")
        if column.isna().any():
            raise ValueError("missing values")
        if self.to == "int":
            return column.astype("int64")
        if getattr(column.dtype, "kind", "O") in "iufb":
            return column.astype("bool")
        truth = column.astype(object).astype(str).str.lower().map(_TRUTH)
        if truth.isna().any():
            raise ValueError("texts that are no truth values")
        return truth.astype("bool")
