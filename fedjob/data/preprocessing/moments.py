"""Count, mean and spread of a column, in parts that combine without loss.

Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Moments = tuple[float, float, float]
"""Number of values, their mean, and the sum of squared differences from it."""


def numbers_of(frame: pd.DataFrame, column: str, step: str) -> np.ndarray[Any, Any]:
    """Return the values of a column that are not missing, as float64 of one dimension.

    Raises:
        SpecError: the column holds something else than finite numbers.
    """
    import numpy as np
    import pandas as pd

    found = frame[column]
    if not pd.api.types.is_numeric_dtype(found.dtype) and found.notna().any():
        raise SpecError(f"{step}: column {column!r} does not hold numbers")
    values: np.ndarray[Any, Any] = found.dropna().to_numpy(dtype="float64")
    if not np.isfinite(values).all():
        raise SpecError(f"{step}: column {column!r} holds numbers that are not finite")
    return values


def present(frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
    """Return the positions of the rows in which a column's value is not missing."""
    import numpy as np

    return np.flatnonzero(frame[column].notna().to_numpy())


def moments_of(values: np.ndarray[Any, Any]) -> Moments:
    """Return the moments of some numbers."""
    if not len(values):
        return 0.0, 0.0, 0.0
    mean = float(values.mean())
    return float(len(values)), mean, float(((values - mean) ** 2).sum())


def combined(parts: Iterable[Moments]) -> Moments:
    """Return the moments of all parts together; their order decides the rounding."""
    total, mean, spread = 0.0, 0.0, 0.0
    for num, own_mean, own_spread in parts:
        if num > 0:
            away = own_mean - mean
            total, before = total + num, total
            mean += away * num / total
            spread += own_spread + away * away * before * num / total
    return total, mean, spread
