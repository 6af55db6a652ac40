"""Steps that choose, order and convert columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.base import TableStep, names_of, need

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {"float": "float64", "int": "int64", "bool": "bool", "str": "str"}


@dataclass(frozen=True, slots=True)
class Select(TableStep):
    """Keep these columns, in this order; the plan sees no other.

    Args:
        columns: one name or several.
    """

    name: ClassVar[str] = "select"
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
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
        names_of(self.column, "Target")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, [self.column], "Target")
        return frame[[*(name for name in frame.columns if name != self.column), self.column]]


@dataclass(frozen=True, slots=True)
class Cast(TableStep):
    """Turn columns into another type.

    Args:
        to: `float`, `int`, `bool` or `str`.
    """

    name: ClassVar[str] = "cast"
    columns: tuple[str, ...]
    to: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", names_of(self.columns, "Cast"))
        if self.to not in _TYPES:
            raise SpecError(f"Cast(to=...) takes {', '.join(_TYPES)}, not {self.to!r}")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, self.columns, "Cast")
        try:
            return frame.astype(dict.fromkeys(self.columns, _TYPES[self.to]))
        except (ValueError, TypeError) as error:  # whose message may quote values
            raise SpecError(
                f"Cast: {', '.join(self.columns)} can't be turned into {self.to}: impute what is missing first, "
                "or choose another type"
            ) from error
