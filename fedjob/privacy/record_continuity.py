"""The check that a proposed record of releases is one, and forgets nothing that the record so far knows.

The proposal comes out of a worker in which user code ran: it is read column by column, and never believed.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import DecodeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_ROWS = 1 << 26
MAX_COLUMNS = 20_000
MAX_POINTS_BYTES = 64 << 20
"""Of a record: more rows, columns, or bytes of points than any dataset with a minimum of rows has."""

_ROW_IDS, _POINTS = "ids", "points"
_WHOLE_NUMBERS, _BYTES = "I64", "U8"


def check_continued(before: Path, after: Path) -> None:
    """Check a proposed record against the one that it is to replace; one that is not there knows nothing.

    Every row that was known is known by the same place, and rows that were told apart in a column still are.

    Raises:
        DecodeError: the proposal forgets a row or a release, or is no record that the next task could read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with ExitStack() as opened:
            new = opened.enter_context(safe_open(after, "numpy"))
            _check_form(new)
            if not before.exists():
                return
            old = opened.enter_context(safe_open(before, "numpy"))
            continued = _is_continued(old, new)
    except (SafetensorError, KeyError, OSError, ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"the proposed record of releases can't be read: {type(error).__name__}") from error
    if not continued:
        raise DecodeError("the proposed record of releases forgets what was released before")


def _check_form(record: Any) -> None:
    """Check that a record is what a task reads: so many whole numbers in every column, and lists of points.

    Raises:
        ValueError: it is something else.
        KeyError: there are no ids of rows.
    """
    names = set(record.keys())
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"a record has at most {MAX_COLUMNS} columns, this one {len(names)}")
    shape = record.get_slice(_ROW_IDS).get_shape() if _ROW_IDS in names else []
    if len(shape) != 1 or shape[0] > MAX_ROWS:
        raise ValueError(f"a record has the ids of at most {MAX_ROWS} rows, this one {shape}")
    for name in names - {_POINTS}:
        column = record.get_slice(name)
        if column.get_shape() != shape or column.get_dtype() != _WHOLE_NUMBERS:
            raise ValueError("a column of a record has a whole number for every row")
    _points(record)


def _is_continued(old: Any, new: Any) -> bool:
    """Return whether a record of the right form knows all that another one knows."""
    import numpy as np

    names, proposed = set(old.keys()), set(new.keys())
    ids = old.get_tensor(_ROW_IDS)
    if not names - {_POINTS} <= proposed or not np.array_equal(new.get_slice(_ROW_IDS)[: len(ids)], ids):
        return False
    answered, points = _points(old), _points(new)
    if not all(points.get(question, [])[: len(known)] == known for question, known in answered.items()):
        return False
    return all(
        _cuts_finer(old.get_tensor(name), new.get_slice(name)[: len(ids)])
        for name in sorted(names - {_ROW_IDS, _POINTS})
    )


def _cuts_finer(labels: npt.NDArray[np.int64], proposed: npt.NDArray[np.int64]) -> bool:
    """Return whether a new label stands for rows of one old label only, and no row's releases are forgotten."""
    import numpy as np

    if np.array_equal(labels, proposed):
        return True
    if len(labels) != len(proposed):
        return False
    _, first, place = np.unique(proposed, return_index=True, return_inverse=True)
    return bool((labels[first][place] == labels).all() and (proposed[labels != 0] != 0).all())


def _points(record: Any) -> dict[str, list[Any]]:
    """Return question -> the points at which it was answered, from a record.

    Raises:
        ValueError: they are something else.
    """
    if _POINTS not in record.keys():  # noqa: SIM118
        return {}
    stored = record.get_slice(_POINTS)
    shape = stored.get_shape()
    if stored.get_dtype() != _BYTES or len(shape) != 1 or shape[0] > MAX_POINTS_BYTES:
        raise ValueError(f"points take at most {MAX_POINTS_BYTES} bytes")
    points = json.loads(record.get_tensor(_POINTS).tobytes())
    if not isinstance(points, dict) or not all(isinstance(known, list) for known in points.values()):
        raise ValueError("points are a list for every question")
    return points
