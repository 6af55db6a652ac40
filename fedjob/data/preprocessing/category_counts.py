"""The categories of a column, released only where they name no small group of rows."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.data.category import category_text

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion

MAX_CATEGORIES = 100
"""A column with more different values at one node counts as something else than categories."""

MAX_FREE = 10
"""Up to so many different values count as categories even where hardly two rows share one."""


def counts_of(frame: pd.DataFrame, column: str, discretion: Discretion, step: str) -> list[list[Any]]:
    """Return `[category, number of rows]` for each category that may be released, in order.

    Raises:
        SpecError: the column holds no categories: there are too many, or hardly two rows share one, as with
            names and numbers of patients; or the values are neither text nor numbers. The message quotes no value.
    """
    values = frame[column].reset_index(drop=True)
    found = values.groupby(values, sort=False).indices
    num, rows = len(found), int(values.notna().sum())
    if num > MAX_CATEGORIES or (num > MAX_FREE and num > rows / 2):
        raise SpecError(
            f"{step}: column {column!r} holds no categories: these are at most {MAX_CATEGORIES} values that several "
            "rows share: bin the column first, or declare its values in the step"
        )
    places = {plain_category(value, column, step): rows_of for value, rows_of in found.items()}
    released = [
        [category, len(places[category])]
        for category in sorted(places, key=lambda category: -len(places[category]))
        if discretion.admit(places[category], "")
    ]
    return sorted(released, key=lambda pair: order_of(pair[0]))


def plain_category(value: Any, column: str, step: str) -> Any:
    """Return a category as text, a whole number, a number or a truth value; whole floats are whole numbers.

    Raises:
        SpecError: it is none of these.
    """
    if not isinstance(value, str) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, (str, int, float, bool)):
        raise SpecError(
            f"{step}: column {column!r} holds values of type {type(value).__name__}: categories are text or numbers"
        )
    return str(value) if isinstance(value, str) else value


def order_of(category: Any) -> tuple[bool, Any]:
    """Return a sort key for categories: numbers first, then text."""
    return isinstance(category, str), category


def added(shares: Iterable[list[list[Any]]]) -> dict[Any, int]:
    """Return category -> number of rows of several nodes together, in order.

    `1`, `1.0` and the text `1` are one category; it is text if it is text at any node.
    """
    total: dict[str, int] = {}
    values: dict[str, Any] = {}
    for share in shares:
        for category, rows in share:
            name = category_text(category)
            total[name] = total.get(name, 0) + int(rows)
            values[name] = name if isinstance(category, str) else values.get(name, category)
    return {values[name]: total[name] for name in sorted(total, key=lambda name: order_of(values[name]))}
