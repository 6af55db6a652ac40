"""Which categories a column has, told so that no small group of rows is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.preprocess.discretion import Discretion

MAX_CATEGORIES = 100
"""A column with more of them at one node is taken for something else than categories."""

MAX_FREE = 10
"""Up to so many are categories even where hardly two rows agree."""


def counts_of(frame: pd.DataFrame, column: str, discretion: Discretion, step: str) -> list[list[Any]]:
    """Return `[category, number of rows]`, in order, of those that may be told.

    Raises:
        SpecError: these are no categories: too many, or hardly two rows agree, as with names and numbers of
            patients; or values that are neither text nor numbers. No value is quoted.
    """
    values = frame[column].reset_index(drop=True)
    found = values.groupby(values, sort=False).indices
    num, rows = len(found), int(values.notna().sum())
    if num > MAX_CATEGORIES or (num > MAX_FREE and num > rows / 2):
        raise SpecError(
            f"{step}: column {column!r} holds no categories, which are at most {MAX_CATEGORIES} and shared by several "
            "rows: bin it first, or declare what it takes"
        )
    places = {plain_category(value, column, step): rows_of for value, rows_of in found.items()}
    told = [
        [category, len(places[category])]
        for category in sorted(places, key=lambda category: -len(places[category]))
        if discretion.admit(places[category], "")
    ]
    return sorted(told, key=lambda pair: order_of(pair[0]))


def plain_category(value: Any, column: str, step: str) -> Any:
    """Return a category as text, a whole number, a number or a truth value; whole floats are whole numbers.

    Raises:
        SpecError: it is none of these.
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, (str, int, float, bool)):
        raise SpecError(
            f"{step}: column {column!r} holds values of type {type(value).__name__}: categories are text or numbers"
        )
    return value


def order_of(category: Any) -> tuple[bool, Any]:
    """Return what categories are sorted by: numbers first, then text."""
    return isinstance(category, str), category


def added(shares: Iterable[list[list[Any]]]) -> dict[Any, int]:
    """Return category -> number of rows over several nodes, in order; 1 and 1.0 are one category."""
    total: dict[Any, int] = {}
    for share in shares:
        for category, rows in share:
            total[category] = total.get(category, 0) + int(rows)
    return {category: total[category] for category in sorted(total, key=order_of)}
