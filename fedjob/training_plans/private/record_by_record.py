"""The check that a plan makes each example from one record alone, found by loading some of the records apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjob.common.errors import NotPrivate

NUM_LOOKED_AT = 16
"""Examples that are compared."""

_CLOSE = 1e-5


def check_same_examples(
    apart: Sequence[Any], whole: Sequence[Any], places: Sequence[int], num_whole: int
) -> None:
    """Check that examples that were made of some records are those that were made of them among all.

    Args:
        apart: arrays with a row for each example that was made of the records at `places` of the dataset.
        whole: arrays with a row for each example that was made of all records.
        places: where those records are among all, in their order.
        num_whole: number of records.

    Raises:
        NotPrivate: an example is another one when other records are missing.
    """
    if len(apart) != len(whole):
        raise NotPrivate(_COUPLED)
    rows = [np.asarray(part).reshape(len(part), -1) for part in apart]
    among = [np.asarray(part).reshape(len(part), -1) for part in whole]
    if any(a.shape[1] != b.shape[1] for a, b in zip(rows, among, strict=True)):
        raise NotPrivate(_COUPLED)
    number = len(rows[0]) if rows else 0
    if number > len(places) or len(among[0]) > num_whole:
        raise NotPrivate(_SEVERAL)
    in_order = number == len(places) and len(among[0]) == num_whole
    for place in np.linspace(0, number - 1, min(number, NUM_LOOKED_AT)).astype(int) if number else ():
        one = [part[place] for part in rows]
        if in_order and _is(one, [part[places[place]] for part in among]):
            continue
        close = np.logical_and.reduce(
            [_close(part, row).all(axis=1) for part, row in zip(among, one, strict=True)]
        )
        if not close.any():
            raise NotPrivate(_COUPLED)


def alike(a: Any, b: Any, depth: int = 5) -> bool:
    """Tell whether two values are the same to rounding; of objects whether their attributes are."""
    if a is b:
        return True
    if type(a) is not type(b) or not depth:
        return False
    if isinstance(a, (bool, int, str, bytes)):
        return bool(a == b)
    if isinstance(a, float):
        return bool(_close(np.asarray(a), np.asarray(b)).all())
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(alike(a[key], b[key], depth - 1) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y, depth - 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, (set, frozenset)):
        return bool(a == b)
    if hasattr(a, "__array__"):
        x, y = np.asarray(a), np.asarray(b)
        return x.shape == y.shape and bool(_close(x, y).all())
    own = getattr(a, "__dict__", None)
    return isinstance(own, dict) and alike(own, vars(b), depth - 1)


def _is(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(bool(_close(a, b).all()) for a, b in zip(one, other, strict=True))


def _close(a: Any, b: Any) -> Any:
    if a.dtype.kind in "biufc" and b.dtype.kind in "biufc":
        return np.isclose(a, b, rtol=_CLOSE, atol=_CLOSE * 1e-3, equal_nan=True)
    return a == b


_COUPLED = (
    "training_data makes another example of a record when other records are missing, such as by a mean, a rank or a "
    "list of categories of the data: under differential privacy each example comes from one record alone. Scale by "
    "fixed numbers, for example preprocess=[Scale(..., centre=..., spread=...)]"
)
_SEVERAL = (
    "training_data makes more examples than there are records: under differential privacy the noise is for one "
    "example of each record. Return one, such as a record's windows as one tensor"
)
