"""The shares of simulated nodes: some rows each of a dataset that all nodes of one process have in common."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError, UnreadableData
from fedjob.data.readers.base import Dataset

MAX_WHOLE = 4
"""Datasets that a process keeps open for the nodes that share them; the oldest is closed."""

_OPENED_BY = ("path", "name", "reader", "tags", "options", "loading")
_whole: dict[str, Dataset] = {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedDatasets(Mapping[str, dict[str, Any]]):
    """The datasets of simulated nodes, each made when it is asked for: node -> `{name, path, ..., num_rows, share}`.

    Args:
        info: what the whole dataset is opened by, with its `version`; and `preprocess`, where all are prepared.
        index: path of the file of row numbers, those of one node after another.
        names: of the nodes, in order.
        stops: where the row numbers of each node end.
    """

    info: Mapping[str, Any]
    index: str
    names: tuple[str, ...] = field(repr=False)
    stops: array[int] = field(repr=False)

    def __getitem__(self, node: str) -> dict[str, Any]:
        at = bisect_left(self.names, node) if isinstance(node, str) else len(self.names)
        if at == len(self.names) or self.names[at] != node:
            raise KeyError(node)
        start, stop = self.stops[at - 1] if at else 0, self.stops[at]
        share = {"index": self.index, "start": start, "stop": stop, "version": self.info["version"]}
        return {**self.info, "num_rows": stop - start, "share": share}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def plain(self) -> dict[str, Any]:
        """The same as plain data, of a few bytes for each node."""
        held = {"info": dict(self.info), "index": self.index, "names": list(self.names)}
        return {SHARED: {**held, "stops": self.stops.tolist()}}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> SharedDatasets:
        """Return them from what `plain` gave.

        Raises:
            DecodeError: it is something else.
        """
        try:
            held = plain[SHARED]
            info, index = dict(held["info"]), held["index"]
            names, stops = tuple(held["names"]), array("q", held["stops"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DecodeError(f"these are no datasets of simulated nodes: {error!r}") from error
        named = all(isinstance(name, str) for name in (*names, index)) and len(names) == len(stops) > 0
        if not (named and "version" in info and _ascends(names) and _ascends((0, *stops))):
            raise DecodeError(
                "these are no datasets of simulated nodes: expected the names of nodes in order, and where the rows of "
                "each end"
            )
        return cls(info=info, index=index, names=names, stops=stops)


SHARED = "*"
"""The key of `SharedDatasets.plain`, which is the name of no node."""


def _ascends(values: tuple[Any, ...]) -> bool:
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
