"""The step that chooses rows."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.base import TableStep, names_of, need

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
    """Keep the rows whose value in a column passes a test; a missing value passes no test.

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
        return frame[kept]
