"""The files of the data that a federation on one machine is given: what has no file yet is written to one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.common.files import make_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

KINDS = "a pandas DataFrame, a path, a pair of arrays or tensors (inputs, targets), or a torch Dataset of such pairs"


def named_data(node: str, entry: Any, name: str) -> dict[str, Any]:
    """Return a node's datasets by their names.

    Args:
        entry: one dataset, a map from names to datasets, or None for none.
        name: of the one dataset.

    Raises:
        SpecError: an empty map, or a name that can't be one of a dataset.
    """
    if entry is None:
        return {}
    if not isinstance(entry, Mapping):
        return {name: entry}
    if not entry:
        raise SpecError(f"{node} has an empty map of datasets; give None for a node without data")
    for each in entry:
        check_dataset_name(each)
    return dict(entry)


def check_dataset_name(name: Any) -> str:
    """Return `name` if it may name a dataset and its file.

    Raises:
        SpecError: it may not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"a dataset is named by 1 to 63 letters, digits, '.', '-' and '_', beginning with a letter or digit; "
            f"found {shown(name)}"
        )
    return name


def as_file(data: Any, place: Path, what: str) -> Path:
    """Return the file or folder of some data; what has none yet is written.

    Args:
        place: path of a file that is written, without an extension.
        what: the data's name in errors, such as `clinic-1/data`.

    Raises:
        SpecError: there is no such file, or no file can be made of it.
    """
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser().resolve()
        if not path.exists():
            raise SpecError(f"the data of {what} are not there: there is no file or folder {path}")
        return path
    make_folder(place.parent)
    if type(data).__name__ == "DataFrame" and hasattr(data, "to_parquet"):
        return _table(data, place.with_name(f"{place.name}.parquet"), what)
    return _arrays(data, place.with_name(f"{place.name}.npz"), what)


def _table(frame: Any, path: Path, what: str) -> Path:
    """Write a DataFrame, without its index."""
    columns = [str(column) for column in frame.columns]
    if not columns or not len(frame):
        raise SpecError(
            f"the table of {what} has {len(columns)} columns and {len(frame)} rows: it needs both"
        )
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise SpecError(f"the table of {what} has several columns named {', '.join(twice)}: rename them")
    try:
        frame.set_axis(columns, axis=1).to_parquet(path, index=False)
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise SpecError(
            f"the table of {what} can't be written as parquet: {error}; give each column one type of value"
        ) from error
    return path


def _arrays(data: Any, path: Path, what: str) -> Path:
    """Write a pair of arrays, or a dataset of pairs, as the arrays `x` and `y`."""
    import numpy as np

    inputs, targets = _pair(data, what)
    if inputs.dtype == object or targets.dtype == object:
        raise SpecError(f"the arrays of {what} hold objects, not numbers of one type and one shape")
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or not len(inputs):
        shapes = f"{list(inputs.shape)} and {list(targets.shape)}"
        raise SpecError(
            f"the inputs and targets of {what} have the shapes {shapes}: they need as many rows, 1 or more"
        )
    np.savez(path, x=inputs, y=targets)
    return path


def _pair(data: Any, what: str) -> tuple[Any, Any]:
    """Return inputs and targets as arrays."""
    import numpy as np

    if (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(hasattr(part, "__array__") for part in data)
    ):
        return np.asarray(data[0]), np.asarray(data[1])
    if isinstance(data, (tuple, list, bytes)) or not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__")
    ):
        raise SpecError(f"the data of {what} are {KINDS}; found {shown(data)}")
    if hasattr(data, "__array__"):
        raise SpecError(f"the data of {what} are one array: give a pair (inputs, targets)")
    rows = [data[index] for index in range(len(data))]
    if not rows or any(not isinstance(row, (tuple, list)) or len(row) != 2 for row in rows):
        raise SpecError(f"the torch Dataset of {what} has no pairs (input, target): found {shown(rows[:1])}")
    try:
        return np.stack([np.asarray(row[0]) for row in rows]), np.stack([np.asarray(row[1]) for row in rows])
    except (ValueError, TypeError) as error:
        raise SpecError(f"the rows of {what} are not of one shape: {error}") from error
