"""The state of a metric, and what the families of metrics share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

MetricState = dict[str, Any]


def as_array(data: ArrayLike, what: str) -> np.ndarray:
    """Return predictions or targets as an array of labels or numbers; one column becomes none.

    Raises:
        SpecError: they are none.
    """
    import numpy as np

    if np.ma.is_masked(data):
        raise SpecError(f"{what} are masked in part: measure those that are not")
    array = np.asarray(data)
    if array.dtype == np.bool_:
        array = array.astype(np.int64)
    if array.ndim == 0:
        raise SpecError(f"{what} are one number; one per example is needed")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        missing, endless = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise SpecError(
            f"{what} are not all finite: {missing} of {array.size} are NaN, {endless} are infinite; look for missing "
            "values in the inputs first, then for parameters that grew without end"
        )
    if array.dtype.kind not in "iufUSO":
        raise SpecError(f"{what} are of type {array.dtype}; labels or numbers are needed")
    return array


def ratio(part: float, whole: float) -> float:
    """Return a part of a whole; NaN where there is no whole."""
    return part / whole if whole else math.nan
