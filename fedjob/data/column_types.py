"""The types of a table's columns, settled once over all rows: true or false, whole numbers, numbers, text.

A column keeps the type that all of its values share, and gaps do not change it: whole numbers with gaps stay whole
numbers, to the last digit. Where values have no common type, and where a number would lose something that its text
says, the column is text: `00123` and `1E5` are codes, and a number of 20 digits is an identifier.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedjob.data.category import category_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING = "missing"
BOOL = "bool"
INT = "int"
LONG = "long"
FLOAT = "float"
CODE = "code"
TEXT = "string"
"""The kinds of values. `LONG` is a whole number that a float64 can't hold exactly, `CODE` text that a number would
lose something of."""

MISSING_TEXTS = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    }
)
"""Texts that mean a missing value, as in pandas."""

TRUE = ("True", "TRUE", "true")
FALSE = ("False", "FALSE", "false")
_CODE = re.compile(r"[+-]?(0[0-9]+|[0-9]+[eE][0-9]+)([.,][0-9]*)?")
_EXACT = 2**53
_INT64 = range(-(2**63), 2**63)
SPACES = {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'"}
"""Signs that stand between thousands in place of a plain space or apostrophe."""

_SPACES = str.maketrans(SPACES)


@dataclass(frozen=True)
class NumberFormat:
    """The way in which numbers are written.

    Args:
        decimal: the decimal sign, a point or a comma.
        thousands: the sign between groups of three digits; empty for none.
        zeros: whether numbers may begin with zeros, as codes do otherwise.
    """

    decimal: str = "."
    thousands: str = ""
    zeros: bool = False

    @cached_property
    def _whole(self) -> str:
        plain = "[0-9]+" if self.zeros else "(?:0|[1-9][0-9]*)"
        if not self.thousands:
            return plain
        return f"(?:[1-9][0-9]{{0,2}}(?:{re.escape(self.thousands)}[0-9]{{3}})+|{plain})"

    @property
    def whole_number(self) -> str:
        """A regular expression for whole numbers, the same in Python and in RE2."""
        return f"[+-]?{self._whole}"

    @property
    def fraction(self) -> str:
        """A regular expression for other numbers, the same in Python and in RE2."""
        sign = re.escape(self.decimal)
        return (
            rf"[+-]?(?:(?:{self._whole}{sign}[0-9]*|{sign}[0-9]+)(?:[eE][+-]?[0-9]+)?"
            rf"|{self._whole}[eE][+-][0-9]+|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?)"
        )

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(self.whole_number), re.compile(self.fraction)

    def kind(self, text: str) -> str:
        """Return the kind of one value that is not missing."""
        if text in TRUE or text in FALSE:
            return BOOL
        given = self.spaced(text)
        whole_number, fraction = self._patterns
        if whole_number.fullmatch(given):
            number = int(self._plain(given)) if len(given) < 40 else _INT64.stop
            if abs(number) <= _EXACT:
                return INT
            return LONG if number in _INT64 else CODE
        if fraction.fullmatch(given):
            return FLOAT
        return CODE if _CODE.fullmatch(given) else TEXT

    def is_number(self, text: str) -> bool:
        """Whether a value that is not missing is a number which an int64 or a float64 holds."""
        if self.thousands and self.thousands in " '":
            text = self.spaced(text)
        whole_number, fraction = self._patterns
        if whole_number.fullmatch(text):
            return len(text) <= 15 or self.kind(text) != CODE
        return fraction.fullmatch(text) is not None

    def spaced(self, text: str) -> str:
        """Return a text with plain spaces and apostrophes, where these stand between thousands."""
        return text.translate(_SPACES) if self.thousands and self.thousands in " '" else text

    def _plain(self, text: str) -> str:
        if self.thousands:
            text = text.replace(self.thousands, "")
        return text if self.decimal == "." else text.replace(self.decimal, ".")


USUAL = NumberFormat()
"""Numbers as programs write them: a decimal point, and nothing between thousands."""


def common_type(kinds: Iterable[str]) -> str:
    """Return the type of a column whose values are of these kinds; `float` for a column without any value.

    Returns:
        `bool`, `int`, `float` or `string`.
    """
    found = set(kinds) - {MISSING}
    if not found:
        return FLOAT
    if found == {BOOL}:
        return BOOL
    if found <= {INT, LONG}:
        return INT
    return FLOAT if found <= {INT, FLOAT} else TEXT


def text_column(texts: Sequence[str | None]) -> pd.Series[Any]:
    """Return a column of texts, of the type that this version of pandas has for texts."""
    import pandas as pd

    return pd.Series(list(texts), dtype=pd.Series(["text"]).dtype)


def _column(values: list[Any], dtype: str, with_gaps: str) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype=with_gaps if None in values else dtype)


def settled(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of values that a database or a file has typed, with one type for all of them.

    Decimals without a fraction are whole numbers, others are numbers. Dates are times at midnight. Values of
    different types, such as numbers and texts, are texts.
    """
    import pandas as pd

    if str(column.dtype) in (
        "Int64",
        "UInt64",
        "Int32",
        "UInt32",
        "Int16",
        "UInt16",
        "Int8",
        "UInt8",
        "boolean",
    ):
        return column if column.isna().any() else column.astype(column.dtype.numpy_dtype)
    if column.dtype != object:
        return column
    values = [None if _is_missing(value) else value for value in column.tolist()]
    kinds = {_kind_of(value) for value in values if value is not None}
    if kinds and kinds <= {"date"}:
        return pd.Series(pd.to_datetime(pd.Series(values, index=column.index)))
    if "other" in kinds or "date" in kinds:
        return column if "other" in kinds else text_column([_text(value) for value in values])
    type_ = common_type(kinds)
    if type_ == TEXT:
        return text_column([_text(value) for value in values])
    if type_ == FLOAT:
        return _column([math.nan if v is None else float(v) for v in values], "float64", "float64")
    if type_ == INT:
        return _column([None if v is None else int(v) for v in values], "int64", "Int64")
    return _column([None if v is None else bool(v) for v in values], "bool", "boolean")


def texts_of(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return the values of a column as texts, whole numbers without a fraction; what is missing stays missing."""
    return text_column([None if _is_missing(value) else category_text(value) for value in column.tolist()])


def _text(value: Any) -> str | None:
    return None if value is None else category_text(value)


def _is_missing(value: Any) -> bool:
    """True if a value stands for a missing one: None, NaN, NaT, NA; never a list."""
    import pandas as pd

    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _kind_of(value: Any) -> str:
    """Return the kind of a value of Python or numpy; `date`, or `other` where a table has no type for it."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, int):
        return INT if abs(value) <= _EXACT else LONG if value in _INT64 else TEXT
    if isinstance(value, (float, Decimal)):
        return FLOAT
    if isinstance(value, str):
        return TEXT
    return "date" if isinstance(value, datetime.date) else "other"


def numeric_array(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return a column as an array of numpy's own types: numbers and truth values with gaps as float64 with NaN."""
    import numpy as np

    if getattr(column.dtype, "kind", "O") in "iub" and column.isna().any():
        found: np.ndarray[Any, Any] = column.to_numpy(dtype="float64", na_value=np.nan)
    else:
        found = column.to_numpy(copy=True)
    return found
