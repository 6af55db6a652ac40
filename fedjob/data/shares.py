"""The shares of simulated nodes: some rows each of a dataset that all nodes of one process have in common."""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError, UnreadableData
from fedjob.data.node_names import ByName, NumberedNames, place_of
from fedjob.data.readers.base import Dataset

MAX_WHOLE = 4
"""Datasets that a process keeps open for the nodes that share them; the oldest is closed."""

_OPENED_BY = ("path", "name", "reader", "tags", "options", "loading")
_whole: dict[str, Dataset] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRanges:
    """The range of row numbers of each node, one after another.

    Args:
        names: of the nodes, in order.
        stops: where the row numbers of each node end.
    """

    names: Sequence[str] = field(repr=False)
    stops: array[int] = field(repr=False)

    def range_at(self, place: int) -> tuple[int, int]:
        """Return where the row numbers of the node at a place begin and end."""
        return self.stops[place - 1] if place else 0, self.stops[place]

    def count_at(self, place: int) -> int:
        """Return how many rows the node at a place has."""
        start, stop = self.range_at(place)
        return stop - start

    @property
    def plain(self) -> dict[str, Any]:
        """The same as plain data: 8 bytes for each node, and its name where that is no number."""
        names = len(self.names) if isinstance(self.names, NumberedNames) else list(self.names)
        stops = self.stops[:]
        if sys.byteorder == "big":
            stops.byteswap()
        return {"names": names, "stops": stops.tobytes()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RowRanges:
        """Return them from what `plain` gave.

        Raises:
            DecodeError: it is something else.
        """
        try:
            named, stops = plain["names"], array("q", plain["stops"])
            is_count = type(named) is int and named == len(stops)
            names: Sequence[str] = NumberedNames(named) if is_count else tuple(named)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DecodeError(f"these are no rows of simulated nodes: {error!r}") from error
        if sys.byteorder == "big":
            stops.byteswap()
        in_order = is_count or (all(isinstance(name, str) for name in names) and _ascends(names))
        if not (len(names) == len(stops) > 0 and in_order and _ascends(chain((0,), stops))):
            raise DecodeError(
                "these are no rows of simulated nodes: expected the names of nodes in order, and where the rows of each "
                "end"
            )
        return cls(names=names, stops=stops)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedDatasets(Mapping[str, dict[str, Any]]):
    """The datasets of simulated nodes, each made when it is asked for: node -> `{name, path, ..., num_rows, share}`.

    Args:
        info: what the whole dataset is opened by, with its `version`; and `preprocess`, where all are prepared.
        index: path of the file of row numbers, those of one node after another.
        rows: each node's range of these.
    """

    info: Mapping[str, Any]
    index: str
    rows: RowRanges

    @property
    def names(self) -> Sequence[str]:
        """The nodes, in order."""
        return self.rows.names

    @property
    def num_rows(self) -> Mapping[str, int]:
        """node -> rows that it has."""
        return ByName(self.names, self.rows.count_at)

    def __getitem__(self, node: str) -> dict[str, Any]:
        place = place_of(node, self.names)
        if place is None:
            raise KeyError(node)
        start, stop = self.rows.range_at(place)
        share = {"index": self.index, "start": start, "stop": stop, "version": self.info["version"]}
        return {**self.info, "num_rows": stop - start, "share": share}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def plain(self) -> dict[str, Any]:
        """The same as plain data, of a few bytes for each node."""
        return {SHARED: {"info": dict(self.info), "index": self.index, **self.rows.plain}}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> SharedDatasets:
        """Return them from what `plain` gave.

        Raises:
            DecodeError: it is something else.
        """
        try:
            held = plain[SHARED]
            info, index, rows = dict(held["info"]), held["index"], RowRanges.of(held)
        except (KeyError, TypeError, ValueError, DecodeError) as error:
            raise DecodeError(f"these are no datasets of simulated nodes: {error}") from error
        if not (isinstance(index, str) and "version" in info):
            raise DecodeError(
                "these are no datasets of simulated nodes: expected the path of their row numbers, and the version of the data"
            )
        return cls(info=info, index=index, rows=rows)


def num_rows_of(datasets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, int | None]:
    """Return node -> rows of its dataset; None where they are not known."""
    if isinstance(datasets, SharedDatasets):
        return datasets.num_rows
    return {node: info.get("num_rows") for node, info in datasets.items()}


SHARED = "*"
"""The key of `SharedDatasets.plain`, which is the name of no node."""


def _ascends(values: Iterable[Any]) -> bool:
    return all(low < high for low, high in pairwise(values))


def share_of(info: Mapping[str, Any], opened: Callable[[Mapping[str, Any]], Dataset]) -> Dataset:
    """Return the rows of a node.

    Args:
        info: what the whole dataset is opened by, with `share`: `{index, start, stop, version}`, the range of row
            numbers in the file of row numbers at `index`, and the version of the whole dataset.
        opened: opens the whole dataset.

    Raises:
        UnreadableData: the file of row numbers is not there, or is none.
    """
    share = info["share"]
    try:
        known = os.stat(share["index"])
        index = _row_numbers(share["index"], known.st_ino, known.st_size, known.st_mtime_ns)
        rows = index[int(share["start"]) : int(share["stop"])].tolist()
    except (OSError, ValueError) as error:
        raise UnreadableData(f"{Path(share['index']).name} can't be read as row numbers: {error}") from error
    found = whole(info, opened).take(rows)
    found.is_share = True
    return found


@lru_cache(maxsize=MAX_WHOLE)
def _row_numbers(path: str, *_: int) -> Any:
    """Map a file of row numbers, once in a process: each of its nodes would read the file's header again.

    Args:
        _: what another file in its place would have otherwise.
    """
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


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
