"""A node's record of the numbers that it released about a dataset, in one file that tasks lock.

Rows are identified by their values, so that a file keeps its history when rows are added or
removed. A release is recorded before its number is sent: a task that fails afterwards, or is
asked again, gets the same decision.
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

from fedjob.common.files import lock, make_folder, replace_durably
from fedjob.privacy.releases import ROWS, Admit, Release, Releases

if TYPE_CHECKING:
    import pandas as pd

_ROW_IDS, _COUNTS = "ids", "rows"


@dataclass(frozen=True, slots=True)
class ReleaseBook:
    """The record of the releases of one dataset.

    Args:
        path: of the record's file, which need not exist yet.
        min_rows: the least number of rows that a released number may be about.
    """

    path: Path
    min_rows: int

    @contextmanager
    def opened(self, frame: pd.DataFrame, kept: npt.NDArray[np.int64]) -> Iterator[Admit]:
        """Lock and load the record; what was admitted is saved at the end, even after an error.

        Args:
            frame: the dataset, as its file holds it.
            kept: the positions in it of the rows that are used; releases count positions among these.

        Yields:
            A function that decides which of several numbers may be released.
        """
        ids = row_ids(frame)
        make_folder(self.path.parent)
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
        """Return the ids of all rows ever seen, these included, and the releases about them."""
        from fedjob.parameters.files import FileParams

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

        from fedjob.parameters.files import save_params

        tensors = {name or _COUNTS: torch.from_numpy(labels) for name, labels in releases.labels.items()}
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_params({_ROW_IDS: torch.from_numpy(known), **tensors}, temporary)
        replace_durably(temporary, self.path)


def row_ids(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return an id for every row, which follows from its values and from its order among equal rows.

    A value counts alike whether its column was read as whole numbers, as fractions, or, because of another row, as
    texts.
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


def _moved(telling: Release, places: npt.NDArray[np.int64]) -> Release:
    return Release(
        places[telling.rows],
        tuple(_key_of(column) for column in telling.columns),
        None if telling.used is None else places[telling.used],
        None if telling.excused is None else places[telling.excused],
    )


def _key_of(column: str) -> str:
    """Return a valid name of a tensor for a column, whatever characters the column's name has."""
    return f"of.{sha256(column.encode()).hexdigest()[:32]}"
