"""The checks of plain values: ranges that numbers must lie in, choices, and text that is safe to print."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from fedjob.common.errors import SpecError


def check_positive(what: str, value: Any) -> None:
    """Check a finite number above 0.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not value > 0:
        raise SpecError(f"{what} is a number above 0, not {value!r}")


def check_not_negative(what: str, value: Any) -> None:
    """Check a finite number of 0 or more.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not value >= 0:
        raise SpecError(f"{what} is a number of 0 or more, not {value!r}")


def check_decay(what: str, value: Any) -> None:
    """Check a number from 0 to below 1.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not 0 <= value < 1:
        raise SpecError(f"{what} is a number from 0 to below 1, not {value!r}")


def check_share(what: str, value: Any) -> None:
    """Check a number above 0 and at most 1.

    Raises:
        SpecError: it is none.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise SpecError(f"{what} is a number above 0 and at most 1, not {value!r}")


def check_count(what: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise SpecError(f"{what} is a whole number of {least} or more, not {value!r}")
    return int(value)


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check one of a few words.

    Raises:
        SpecError: it is none of them.
    """
    if value not in choices:
        raise SpecError(f"{what} is {' or '.join(repr(choice) for choice in choices)}, not {value!r}")


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no bool."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def python_numbers(value: Any) -> Any:
    """Return a value with the numbers and arrays of numpy in it as Python's own, however deep they lie."""
    if isinstance(value, Mapping) and type(value) is dict:
        return {python_numbers(key): python_numbers(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(python_numbers(item) for item in value)
    dtype = getattr(value, "dtype", None)
    if type(value).__module__ == "numpy" and getattr(dtype, "kind", "") in "biufU":
        return value.tolist()
    return value


def printable(text: str) -> str:
    """Return a text that can't steer a terminal: what is no printable character becomes a space.

    Whatever another party wrote goes through this before it is printed.
    """
    return "".join(c if c.isprintable() else " " for c in text)
