"""A node's record of the numbers that it released about a dataset, in one file that tasks lock.

Rows are identified by their values, so that a file keeps its history when rows are added or
removed. A release is recorded before its number is sent: a task that fails afterwards, or is
asked again, gets the same decision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedjob.common.files import lock, make_folder, replace_durably
from fedjob.privacy.releases import ROWS, Labels, Release, Releases, Rows

if TYPE_CHECKING:
    import pandas as pd

_ROW_IDS, _COUNTS, _POINTS = "ids", "rows", "points"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class OpenBook:
    """The record of a dataset's releases while it is locked; called, it admits numbers one by one.

    Args:
        releases: of all rows that were ever seen.
        places: of the rows that are used, among those; releases count positions among these.
    """

    releases: Releases
    places: Rows

    def __call__(self, tellings: Sequence[Release]) -> list[bool]:
        """Decide which of several numbers may be released, and record those."""
        return self.releases.admit([_moved(telling, self.places) for telling in tellings])

    def together(self, counted: Rows, used: Mapping[str, Rows], excused: Rows) -> bool:
        """Decide whether numbers about whole rows may be released, see `Releases.admit_together`."""
        moved = {_key_of(name): self.places[rows] for name, rows in used.items()}
        return self.releases.admit_together(self.places[counted], moved, self.places[excused])

    def pieces(self, columns: Sequence[str]) -> Labels:
        """Return a label for every used row: those with one label were always released together."""
        return self.releases.pieces([_key_of(name) for name in columns])[self.places]

    def answered(self, question: str) -> list[Any]:
        """Return the points at which a question was answered so far."""
        return list(self.releases.points.get(question, ()))

    def answer(self, question: str, point: Any) -> None:
        """Record that a question was answered at a point, plain data that JSON can hold."""
        self.releases.answer(question, point)


@dataclass(frozen=True, slots=True)
class ReleaseBook:
    """The record of the releases of one dataset.

    Args:
        path: of the record's file, which need not exist yet.
        min_rows: the least number of rows that a released number may be about.
        borrow: entered before the record is read: puts it at `path`, keeps it from others meanwhile, and at its end makes
            what was saved there the record of all.
    """

    path: Path
    min_rows: int
    borrow: Callable[[], AbstractContextManager[None]] | None = None

    def opened(self, frame: pd.DataFrame, kept: Rows) -> AbstractContextManager[OpenBook]:
        """Lock and load the record of a table; what was admitted is saved at the end, even after an error.

        Args:
            frame: the dataset, as its file holds it.
            kept: the positions in it of the rows that are used; releases count positions among these.
        """
        return self.opened_for(row_ids(frame), kept)

    @contextmanager
    def opened_for(self, ids: Ids, kept: Rows) -> Iterator[OpenBook]:
        """Lock and load the record, for rows by their ids; what was admitted is saved at the end.

        Args:
            ids: of the rows of the dataset, each once.
            kept: the positions among these of the rows that are used.
        """
        make_folder(self.path.parent)
        with (
            self.borrow() if self.borrow is not None else nullcontext(),
            lock(self.path.with_suffix(".lock")),
        ):
            known, releases = self._load(ids)
            order = np.argsort(known)
            places = order[np.searchsorted(known, ids, sorter=order)][kept]
            try:
                yield OpenBook(releases, places)
            finally:
                if releases.changed:
                    self._save(known, releases)

    def _load(self, ids: Ids) -> tuple[Ids, Releases]:
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
            if key not in (_ROW_IDS, _POINTS)
        }
        points = json.loads(stored[_POINTS].numpy().tobytes()) if _POINTS in stored else {}
        return np.concatenate([known, new]), Releases(self.min_rows, labels, points)

    def _save(self, known: Ids, releases: Releases) -> None:
        import torch

        from fedjob.parameters.files import save_params

        tensors = {name or _COUNTS: torch.from_numpy(labels) for name, labels in releases.labels.items()}
        if releases.points:
            text = bytearray(json.dumps(releases.points).encode())
            tensors[_POINTS] = torch.frombuffer(text, dtype=torch.uint8)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_params({_ROW_IDS: torch.from_numpy(known), **tensors}, temporary)
        replace_durably(temporary, self.path)


def row_ids(frame: pd.DataFrame) -> Ids:
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
    mixed: Ids = (hashes.to_numpy() + repeats * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    return mixed


def _moved(telling: Release, places: Rows) -> Release:
    return Release(
        places[telling.rows],
        tuple(_key_of(column) for column in telling.columns),
        None if telling.used is None else places[telling.used],
        None if telling.excused is None else places[telling.excused],
    )


def _key_of(column: str) -> str:
    """Return a valid name of a tensor for a column, whatever characters the column's name has."""
    return f"of.{sha256(column.encode()).hexdigest()[:32]}"
