"""The owner's minimum of rows, held for everything that is computed from a dataset with a plan.

Every number that leaves is about a set of rows. Here these sets are compared with the record of what was released about
the dataset (`privacy/releases.py`): a set of fewer than `min_rows` rows, and one that differs in fewer from a set
about which numbers were released before, is refused. Numbers of a plan are about whole rows, all columns of them.

Where the rows of a task are drawn, for a test split or for a part of a pass, they are drawn by a key that belongs
to each row. No seed, job or round chooses other rows, so that no two draws differ by few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedjob.common.errors import NodeFailure, SpecError
from fedjob.privacy.isolation import MAX_POINTS, few_weigh, isolates, marks_few
from fedjob.privacy.release_book import Ids, ReleaseBook, row_ids
from fedjob.privacy.releases import Floats, Rows

if TYPE_CHECKING:
    from fedjob.data.readers.base import Dataset

WHOLE, EXAMPLES = "\0rows", "\0examples"
"""Names, that no column has, under which the record keeps whole rows, and a plan's examples that are no rows."""

Keys = npt.NDArray[np.float64]
"""A number from 0 to 1 for each row, drawn once and for all."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSet:
    """The rows of a dataset, or the examples that a plan made of them, as the record knows them.

    Args:
        ids: of all rows of the dataset.
        kept: the positions among these of the rows that are used.
        values: column -> whether each of all rows has a value there.
    """

    ids: Ids
    kept: Rows
    values: Mapping[str, npt.NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.kept)

    def keys(self, purpose: str) -> Keys:
        """Return the key of each used row: the same for the same row, whatever other rows there are."""
        salt = np.frombuffer(sha256(purpose.encode()).digest()[:8], dtype=np.uint64)[0]
        mixed = self.ids[self.kept].view(np.uint64) ^ salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed = mixed ^ (mixed >> np.uint64(31))
        keys: Keys = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
        return keys


@dataclass(slots=True, eq=False)
class RowLimit:
    """The rule on the rows of one dataset that a number may be about.

    Args:
        node: that has the data.
        book: the record of what was released about them.
        dataset: as the job's items and preprocessing leave it.
    """

    node: str
    book: ReleaseBook
    dataset: Dataset
    _roots: list[tuple[Dataset, RowSet]] = field(default_factory=list)

    @property
    def min_rows(self) -> int:
        """The fewest rows that a number may be about."""
        return self.book.min_rows

    def rows_of(self, dataset: Dataset) -> RowSet:
        """Return the rows of a dataset, or of a part of it.

        Raises:
            NodeFailure: the rows can't be told apart.
        """
        try:
            root, kept = dataset.origin()
            known = next((rows for found, rows in self._roots if found is root), None)
            if known is None:
                known = _root_rows(root)
                self._roots = [(root, known)]
        except SpecError as error:
            raise NodeFailure(self.node, "min_rows", f"the rows can't be told apart: {error}") from error
        return RowSet(known.ids, np.asarray(kept, dtype=np.int64), known.values)

    def examples(self, number: int, contents: Callable[[], Sequence[Any] | None]) -> RowSet:
        """Return what the record knows a plan's examples by: the rows themselves, if there are as many of them.

        Args:
            contents: returns arrays with a row for each example; None where they would have to be loaded for it.
        """
        rows = self.rows_of(self.dataset)
        if number == len(rows):
            return rows
        arrays = contents()
        ids = _ids_of(_texts_of(arrays, number))
        return RowSet(ids, np.arange(number), {EXAMPLES: np.ones(number, dtype=bool)})

    def admits(self, rows: RowSet, places: Rows | None = None) -> bool:
        """Decide whether numbers about these rows may leave, and record them if so.

        Args:
            places: positions among the used rows; None for all of them. How many of these are chosen is no secret, nor
                how many rows were left out of the dataset because a value is missing.
        """
        inside = rows.kept if places is None else rows.kept[np.asarray(places, dtype=np.int64)]
        if len(inside) < self.min_rows:
            return False
        if EXAMPLES in rows.values and not self.admits(self.rows_of(self.dataset)):
            return False
        used = {name: inside[has[inside]] for name, has in rows.values.items()}
        counted = rows.kept[:0] if EXAMPLES in rows.values else rows.kept
        gaps = ~np.logical_and.reduce(list(rows.values.values()))
        excused = np.setdiff1d(np.flatnonzero(gaps), rows.kept)
        with self.book.opened_for(rows.ids, np.arange(len(rows.ids))) as book:
            return book.together(counted, used, excused)

    def sums_isolate(self, columns: Floats, groups: Sequence[Rows]) -> bool:
        """Return whether sums, and sums of products, of these columns are about few rows, in all rows or in a group.

        Args:
            columns: of shape (rows, columns).
            groups: positions of the rows of each group whose columns are summed apart.
        """
        if isolates(columns, self.min_rows):
            return True
        return any(
            0 < len(group) < self.min_rows
            or any(marks_few(column, self.min_rows, moments=2) for column in columns[group].T)
            for group in groups
        )

    def points_isolate(self, question: str, point: Any, weights: Callable[[Any], Sequence[Floats]]) -> bool:
        """Return whether sums weighted at a point are about few rows, and record the point if they are not.

        Args:
            question: names the kind of model; all points at which it was answered are compared.
            point: plain data.
            weights: returns the weights of all rows at a point.
        """
        rows = self.rows_of(self.dataset)
        with self.book.opened_for(rows.ids, rows.kept) as book:
            earlier = [other for other in book.answered(question) if other != point]
            if len(earlier) >= MAX_POINTS:
                return True
            if few_weigh(weights(point), (weights(other) for other in earlier), self.min_rows):
                return True
            book.answer(question, point)
        return False

    def need(self, what: str, rows: RowSet, places: Rows | None = None) -> None:
        """Refuse numbers that may not leave.

        Args:
            what: the numbers, in words for the message.

        Raises:
            NodeFailure: with reason `min_rows`.
        """
        if not self.admits(rows, places):
            raise self.refusal(what)

    def need_data(self, what: str, dataset: Dataset) -> None:
        """Refuse numbers about all rows of a dataset, or of a part of it, that may not leave.

        Raises:
            NodeFailure: with reason `min_rows`.
        """
        self.need(what, self.rows_of(dataset))

    def refusal(self, what: str) -> NodeFailure:
        """Return the error that these numbers may not leave."""
        return NodeFailure(self.node, "min_rows", self.reason(what))

    def reason(self, what: str) -> str:
        """Return why these numbers may not leave, and what to do."""
        return (
            f"{what} would be about few rows, alone or as the difference from what was released before (use all rows, or "
            f"sets of rows that differ by enough): fewer than the owner's minimum of {self.min_rows}"
        )


def _root_rows(root: Dataset) -> RowSet:
    """Return the rows of a dataset as its files hold it."""
    from fedjob.data.readers.table import TableDataset

    number = int(root.num_rows)
    values = {WHOLE: np.ones(number, dtype=bool)}
    if isinstance(root, TableDataset):
        frame = root.frame().reset_index(drop=True)
        values |= {str(name): frame[name].notna().to_numpy(dtype=bool) for name in frame}
        return RowSet(row_ids(frame), np.arange(number), values)
    texts = [f"{one.id}\0{one.mtime}\0{one.hash}".encode() for one in root.identities()]
    if len(texts) != number:  # examples of a plan's own class, which are not the files
        texts = [str(place).encode() for place in range(number)]
    return RowSet(_ids_of(texts), np.arange(number), values)


def _texts_of(arrays: Sequence[Any] | None, number: int) -> list[bytes]:
    """Return bytes for each example by which it is recognised: its contents, else its place among so many."""
    if arrays is None:
        return [f"{place} of {number}".encode() for place in range(number)]
    whole = [np.ascontiguousarray(array) for array in arrays]
    return [b"\0".join(sha256(array[place].tobytes()).digest() for array in whole) for place in range(number)]


def _ids_of(texts: Sequence[bytes]) -> Ids:
    """Return an id for each text; equal ones differ by how many of them came before."""
    seen: dict[bytes, int] = {}
    found = np.empty(len(texts), dtype=np.int64)
    for place, text in enumerate(texts):
        repeat = seen[text] = seen.get(text, -1) + 1
        digest = sha256(text + repeat.to_bytes(8, "little")).digest()[:8]
        found[place] = np.frombuffer(digest, dtype=np.int64)[0]
    return found
