"""The share of a simulated node: some rows of a dataset that all nodes of one process have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import UnreadableData
from fedjob.data.readers.base import Dataset

MAX_WHOLE = 4
"""Datasets that a process keeps open for the nodes that share them; the oldest is closed."""

_OPENED_BY = ("path", "name", "reader", "tags", "options", "loading")
_whole: dict[str, Dataset] = {}


def share_of(info: Mapping[str, Any], opened: Callable[[Mapping[str, Any]], Dataset]) -> Dataset:
    """Return the rows of a node.

    Args:
        info: what the whole dataset is opened by, with `share`: `{index, start, stop, version}`, the range of row
            numbers in the file of row numbers at `index`, and the version of the whole dataset.
        opened: opens the whole dataset.

    Raises:
        UnreadableData: the file of row numbers is not there, or is none.
    """
    import numpy as np

    share = info["share"]
    try:
        index = np.load(share["index"], mmap_mode="r", allow_pickle=False)
        rows = index[int(share["start"]) : int(share["stop"])].tolist()
    except (OSError, ValueError) as error:
        raise UnreadableData(f"{Path(share['index']).name} can't be read as row numbers: {error}") from error
    return whole(info, opened).take(rows)


def whole(info: Mapping[str, Any], opened: Callable[[Mapping[str, Any]], Dataset]) -> Dataset:
    """Return the whole dataset that shares are taken of, opened once in a process."""
    by = {name: info[name] for name in _OPENED_BY if name in info}
    version = info["share"]["version"]  # another file may have taken the place of one that was opened
    key = json.dumps([by, version], sort_keys=True, default=str)
    if key not in _whole:
        while len(_whole) >= MAX_WHOLE:
            del _whole[next(iter(_whole))]
        _whole[key] = opened(by)
    return _whole[key]
