"""The step that chooses rows."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.checks import check_kinds, is_number, shown
from fedjob.common.errors import SpecError
from fedjob.data.category import where_categories
from fedjob.data.preprocessing.base import TableStep, names_of, need

if TYPE_CHECKING:
    import pandas as pd

_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TESTS = ("==", "!=", *_COMPARE, "in", "present")


@dataclass(frozen=True, slots=True)
class Filter(TableStep):
    """Keep the rows whose value in a column passes a test; a missing value passes no test.

    Equal are values that are one category: `1`, `1.0` and the text `1`, whichever of them a node's data hold.

    Args:
        test: `==`, `!=`, `<`, `<=`, `>`, `>=`, `in` (value: a list) or `present` (no value).
    """

    name: ClassVar[str] = "filter"
    column: str
    test: str
    value: Any = None

    def __post_init__(self) -> None:
        check_kinds(self)
        names_of(self.column, "Filter")
        if self.test not in _TESTS:
            raise SpecError(f"Filter tests with {' '.join(_TESTS)}, not {shown(self.test)}")
        if (self.test == "in") != isinstance(self.value, (list, tuple)) or (
            (self.test == "present") != (self.value is None)
        ):
            raise SpecError(
                f"Filter({shown(self.column)}, {shown(self.test)}, ...) can't compare with {shown(self.value)}"
            )

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        import numpy as np

        need(frame, [self.column], "Filter")
        column = frame[self.column]
        kept = column.notna()
        try:
            if self.test in ("==", "!=", "in"):
                values = self.value if self.test == "in" else [self.value]
                equal = np.logical_or.reduce([_equal(column, value) for value in values] or [~kept & kept])
                kept &= ~equal if self.test == "!=" else equal
            elif self.test != "present":
                if is_number(self.value) and getattr(column.dtype, "kind", "O") not in "iufb":
                    raise TypeError  # whichever rows are left: a column of texts has no order among numbers
                kept &= _COMPARE[self.test](column, self.value).fillna(False).astype(bool)
        except TypeError as error:
            raise SpecError(
                f"Filter: column {shown(self.column)} can't be compared with {shown(self.value)}"
            ) from error
        return frame[kept]


def _equal(column: pd.Series[Any], value: Any) -> pd.Series[bool]:
    """Return where a column has a value: numbers by value, others by the name of the category."""
    kind = getattr(column.dtype, "kind", "O")
    if kind in "mM" or (kind in "iufb" and not isinstance(value, str)):
        return (column == value).fillna(False).astype(bool)
    return where_categories(column, [value])[0]
