"""The name of a category: one text for one value, whatever type a file, a database or a node gives it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def category_text(value: Any) -> str:
    """Return a value as text, the same for equal numbers of any type of Python, numpy or a database.

    `1`, `1.0`, `numpy.int64(1)` and `Decimal("1")` are all "1"; `True` and `numpy.bool_(True)` are "True".
    """
    if not isinstance(value, str) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Decimal) and value.is_finite():
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def category_texts(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return the categories of a column by their names, as objects; None where one is missing."""
    import numpy as np
    import pandas as pd

    codes, distinct = pd.factorize(column)
    texts = np.array([*(category_text(value) for value in distinct), None], dtype=object)
    return pd.Series(texts[codes], index=column.index)  # where one is missing the code is -1: the last


def where_categories(column: pd.Series[Any], categories: Sequence[Any]) -> list[pd.Series[bool]]:
    """Return for each category in which rows a column has it, whichever type the column and the category have.

    A column of truth values has the categories 0 and 1, too.
    """
    texts = category_texts(column)
    truth = getattr(column.dtype, "kind", "O") == "b"
    numbers = category_texts(column.astype("Int64")) if truth else texts
    return [
        (texts if isinstance(category, (bool, str)) else numbers) == category_text(category)
        for category in categories
    ]
