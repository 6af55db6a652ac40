"""The audit of differences: it decides if one more number about rows may be released beside earlier ones.

Dobkin, Jones, Lipton 1979, "Secure databases: protection against user inference",
https://doi.org/10.1145/320064.320068, and Chin, Ozsoyoglu 1982, "Auditing and inference
control in statistical databases", https://doi.org/10.1109/TSE.1982.236161

Sums over two sets of rows reveal the sum over their difference. So for every column the sets
over which a number was released are kept as the partition that they cut the rows into: rows
that were always released together bear one label. Whatever is computed of all releases, as any sum of
multiples, is the same multiple within a label; it is about at least `min_rows` rows as
long as no label has fewer. A set that would cut a smaller piece off is withheld.

Counts of rows have a partition of their own, under the name of no column. Its first label is
all rows, because how many there are is known. How many values of a column are missing in a
set that may be released is released with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
"""Places of rows in a table, each once."""

Labels = npt.NDArray[np.int64]
NEVER = 0
"""The label of rows about which nothing was released yet."""

ROWS = ""
"""The name of the partition of counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """Numbers about one set of rows.

    Args:
        rows: that are counted.
        columns: whose values are summed, alone or in products.
        used: those of `rows` that the sums are over, because nothing is missing there; None for all.
        excused: rows in which a value is missing: their number is released anyway, so as far as rows are
            only counted, the others that stay behind must be enough without them.
    """

    rows: Rows
    columns: tuple[str, ...] = ()
    used: Rows | None = None
    excused: Rows | None = None


Admit = Callable[[Sequence[Release]], list[bool]]
"""Decides which of several numbers may be released."""


@dataclass(slots=True)
class Releases:
    """The releases about one dataset so far.

    Args:
        min_rows: the fewest rows that a number may be about, 1 or more.
        labels: column -> a label for every row that was ever seen.
        points: name of a question -> the points at which it was answered so far, plain data.
        sizes: column -> how many rows each label has, as far as it was counted.
    """

    min_rows: int
    labels: dict[str, Labels] = field(default_factory=dict)
    points: dict[str, list[Any]] = field(default_factory=dict)
    sizes: dict[str, Labels] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def fresh(cls, min_rows: int, num_rows: int) -> Releases:
        """Return the audit of a dataset of which only the number of its rows is known."""
        return cls(min_rows, {ROWS: np.ones(num_rows, dtype=np.int64)})

    def answer(self, question: str, point: Any) -> None:
        """Record that a question was answered at a point."""
        known = self.points.setdefault(question, [])
        if point not in known:
            known.append(point)
            self.changed = True

    def admit(self, tellings: Sequence[Release]) -> list[bool]:
        """Decide which of these may be released, the largest first, and record those."""
        allowed = [False] * len(tellings)
        for place in sorted(range(len(tellings)), key=lambda place: -len(tellings[place].rows)):
            allowed[place] = self._admit_one(tellings[place])
        return allowed

    def _admit_one(self, telling: Release) -> bool:
        used = telling.rows if telling.used is None else telling.used
        wanted = [(ROWS, telling.rows), *((column, used) for column in telling.columns)]
        if not all(
            self._holds(name, rows, telling.excused if name == ROWS else None) for name, rows in wanted
        ):
            return False
        for name, rows in wanted:
            self._cut(name, rows)
        return True

    def admit_together(self, counted: Rows, used: Mapping[str, Rows], excused: Rows) -> bool:
        """Decide whether numbers about whole rows may be released, all or none, and record them.

        A column in which these rows have fewer than `min_rows` values, and about which nothing was released
        yet, decides nothing: whoever computed the numbers may not have used it.

        Args:
            counted: rows whose number is released.
            used: column -> the rows of which a value may be in the numbers.
            excused: as those of a `Release`.
        """
        wanted = []
        for name, rows in used.items():
            if len(rows) >= self.min_rows or (
                name in self.labels and (self.labels[name][rows] != NEVER).any()
            ):
                wanted.append((name, rows))
        if not self._holds(ROWS, counted, excused):
            return False
        if not all(self._holds(name, rows, None) for name, rows in wanted):
            return False
        for name, rows in ((ROWS, counted), *wanted):
            self._cut(name, rows)
        return True

    def pieces(self, columns: Sequence[str]) -> Labels:
        """Return a label for every row; rows that were released together in one of these columns, or counted so, share it."""
        found = self._of(ROWS)
        for labels in (self._of(name) for name in columns):
            found = _joined(found, labels)
        return found

    def _of(self, name: str) -> Labels:
        return self.labels.setdefault(name, np.zeros(len(self.labels[ROWS]), dtype=np.int64))

    def _holds(self, name: str, rows: Rows, excused: Rows | None) -> bool:
        """Tell whether a set is large enough, and no piece that it cuts off is too small."""
        if 0 < len(rows) < self.min_rows:
            return False
        labels, sizes = self._of(name), self._sizes(name)
        inside = np.bincount(labels[rows], minlength=len(sizes))
        rest = sizes - inside
        never = np.arange(len(sizes)) == NEVER
        if ((inside > 0) & (inside < self.min_rows) & ((rest > 0) | never)).any():
            return False
        if excused is not None and len(excused):
            rest -= np.bincount(labels[np.setdiff1d(excused, rows)], minlength=len(sizes))
        return not ((inside > 0) & (rest > 0) & (rest < self.min_rows) & ~never).any()

    def _cut(self, name: str, rows: Rows) -> None:
        labels, sizes = self._of(name), self._sizes(name)
        within = labels[rows]
        inside = np.bincount(within, minlength=len(sizes))
        cut = np.flatnonzero((inside > 0) & ((inside < sizes) | (np.arange(len(sizes)) == NEVER)))
        if not len(cut):
            return
        fresh = np.arange(len(sizes))
        fresh[cut] = len(sizes) + np.arange(len(cut))
        labels[rows] = fresh[within]
        sizes[cut] -= inside[cut]
        self.sizes[name] = np.concatenate([sizes, inside[cut]])
        self.changed = True

    def _sizes(self, name: str) -> Labels:
        """Return how many rows each label has; kept up to date, because counting them anew takes long."""
        if name not in self.sizes:
            self.sizes[name] = np.bincount(self._of(name))
        return self.sizes[name]


def _joined(one: Labels, other: Labels) -> Labels:
    """Return the finest labels of which both are refinements: rows with one label in either share it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size, more = int(one.max(initial=0)) + 1, int(other.max(initial=0)) + 1
    edges = coo_array((np.ones(len(one)), (one, size + other)), shape=(size + more, size + more))
    _, components = connected_components(edges, directed=False)
    joined: Labels = components[one].astype(np.int64)
    return joined
