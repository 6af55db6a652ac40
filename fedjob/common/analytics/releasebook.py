"""A node's record of what was told of a dataset, in one file that tasks take turns with.

Rows are known by what they hold, so that a file to which rows are added, or from which
some are taken, keeps its history. What is about to be told is written down before it is:
a task that fails afterwards, or is asked again, is told the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedjob.common.analytics.releases import ROWS, Admit, Releases, Telling
from fedjob.common.durable import lock, replace_durably

if TYPE_CHECKING:
    import pandas as pd

_ROW_IDS, _COUNTS = "ids", "rows"


@dataclass(frozen=True, slots=True)
class ReleaseBook:
    """The record of one dataset.

    Args:
        path: of its file, which need not be there yet.
        min_rows: the fewest rows that a number may be about.
    """

    path: Path
    min_rows: int

    @contextmanager
    def opened(self, frame: pd.DataFrame, kept: npt.NDArray[np.int64]) -> Iterator[Admit]:
        """Have the record for a while; what was admitted is written down at the end, whatever happens.

        Args:
            frame: the dataset, as it lies in its file.
            kept: places in it of the rows that tellings count by their own places.

        Yields:
            A function that decides which of several numbers may be told.
        """
        ids = row_ids(frame)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with lock(self.path.with_suffix(".lock")):
            known, releases = self._load(ids)
            order = np.argsort(known)
            places = order[np.searchsorted(known, ids, sorter=order)][kept]
            try:
                yield lambda tellings: releases.admit([_moved(telling, places) for telling in tellings])
            finally:
                if releases.changed:
                    self._save(known, releases)

    def _load(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Releases]:
        """Return the ids of all rows ever seen, these among them, and what was told of them."""
        from fedjob.common.params import FileParams

        if not self.path.exists():
            return ids, Releases.fresh(self.min_rows, len(ids))
        stored = FileParams(self.path)
        known = stored[_ROW_IDS].numpy().copy()
        new = np.setdiff1d(ids, known)
        labels = {
            ROWS if key == _COUNTS else key: np.concatenate(
                [stored[key].numpy(), np.zeros(len(new), dtype=np.int64)]
            )
            for key in stored
            if key != _ROW_IDS
        }
        return np.concatenate([known, new]), Releases(self.min_rows, labels)

    def _save(self, known: npt.NDArray[np.int64], releases: Releases) -> None:
        import torch

        from fedjob.common.params import save_params

        tensors = {name or _COUNTS: torch.from_numpy(labels) for name, labels in releases.labels.items()}
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_params({_ROW_IDS: torch.from_numpy(known), **tensors}, temporary)
        replace_durably(temporary, self.path)


def row_ids(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a number for every row that follows from what it holds, and from which of several equal ones it is.

    A number is the same whether its column was read as whole numbers, as others, or as texts because of another row.
    """
    import pandas as pd

    parts: dict[str, pd.Series[Any]] = {}
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        values = pd.to_numeric(column, errors="coerce").astype("float64")
        texts = column.astype(object).where(values.isna() & column.notna(), "").astype(str)
        parts |= {f"{place} number": values, f"{place} text": texts}
    hashes = pd.util.hash_pandas_object(pd.DataFrame(parts, index=frame.index), index=False)
    repeats = hashes.groupby(hashes).cumcount().to_numpy(dtype=np.uint64)
    mixed: npt.NDArray[np.int64] = (hashes.to_numpy() + repeats * np.uint64(0x9E3779B97F4A7C15)).view(
        np.int64
    )
    return mixed


def _moved(telling: Telling, places: npt.NDArray[np.int64]) -> Telling:
    return Telling(
        places[telling.rows],
        tuple(_key_of(column) for column in telling.columns),
        None if telling.used is None else places[telling.used],
        None if telling.excused is None else places[telling.excused],
    )


def _key_of(column: str) -> str:
    """Return a tensor's name for a column, whatever characters that has."""
    return f"of.{sha256(column.encode()).hexdigest()[:32]}"
