"""Which rows count, and what stands where a value is missing."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError
from fedjob.common.preprocess.base import TableStep, names_of, need

if TYPE_CHECKING:
    import pandas as pd

_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TESTS = (*_COMPARE, "in", "present")


@dataclass(frozen=True, slots=True)
class Filter(TableStep):
    """Keep the rows whose column passes a test; a missing value passes none.

    Args:
        test: `==`, `!=`, `<`, `<=`, `>`, `>=`, `in` (value: a list) or `present` (no value).
    """

    name: ClassVar[str] = "filter"
    column: str
    test: str
    value: Any = None

    def __post_init__(self) -> None:
        names_of(self.column, "Filter")
        if self.test not in _TESTS:
            raise SpecError(f"Filter tests with {' '.join(_TESTS)}, not {self.test!r}")
        if (self.test == "in") != isinstance(self.value, (list, tuple)) or (
            (self.test == "present") != (self.value is None)
        ):
            raise SpecError(f"Filter({self.column!r}, {self.test!r}, ...) can't compare with {self.value!r}")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, [self.column], "Filter")
        column = frame[self.column]
        kept = column.notna()
        try:
            if self.test == "in":
                kept &= column.isin(list(self.value))
            elif self.test != "present":
                kept &= _COMPARE[self.test](column, self.value).fillna(False).astype(bool)
        except TypeError as error:
            raise SpecError(
                f"Filter: column {self.column!r} can't be compared with {self.value!r}"
            ) from error
        return frame[kept].reset_index(drop=True)


@dataclass(frozen=True, slots=True)
class Impute(TableStep):
    """Put a value where one is missing.

    Args:
        value: to put there; or
        strategy: `mean`, `median` or `most_frequent` of the node's own column. Nodes then fill in
            different values; give a `value` where all have to agree.
    """

    name: ClassVar[str] = "impute"
    columns: tuple[str, ...]
    value: Any = None
    strategy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", names_of(self.columns, "Impute"))
        if self.strategy not in ("", "mean", "median", "most_frequent") or (
            (self.value is None) == (not self.strategy)
        ):
            raise SpecError("Impute takes a value, or strategy='mean', 'median' or 'most_frequent'")

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, self.columns, "Impute")
        return frame.fillna({name: self._fill(frame[name]) for name in self.columns})

    def _fill(self, column: pd.Series[Any]) -> Any:
        if not self.strategy:
            return self.value
        present = column.dropna()
        if present.empty:
            raise SpecError(
                f"Impute: column {column.name!r} has no value at all; give one: Impute(..., value=0)"
            )
        if self.strategy == "most_frequent":
            return present.mode().iloc[0]
        try:
            return present.mean() if self.strategy == "mean" else present.median()
        except (TypeError, ValueError) as error:
            raise SpecError(f"Impute: column {column.name!r} does not hold numbers") from error
