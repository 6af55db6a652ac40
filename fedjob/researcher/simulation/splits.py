"""The ways to divide the rows of one dataset among simulated nodes.

A split is pure: labels, a number of nodes and a generator in, the rows of every node out. The same seed gives the same
rows on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, overload

import numpy as np

from fedjob.common.checks import check_count, check_kinds, check_positive, is_list, python_numbers, shown
from fedjob.common.errors import SpecError

Rows = np.ndarray[Any, Any]
"""Row numbers, int64."""

MAX_DRAWS = 100
"""Draws of `Dirichlet` before it gives up to find one in which every node has enough rows."""

MAX_KINDS = 100
"""Different values that may be labels, however few the rows are."""

HUGE_ALPHA = 1e100
"""Larger values of `Dirichlet(alpha=...)` give every node the same share."""


@dataclass(frozen=True, slots=True, eq=False)
class Division(Sequence[Rows]):
    """The rows of each node, as two arrays whatever the number of nodes.

    Args:
        rows: of all nodes, one after another.
        stops: where the rows of each node end.
    """

    rows: Rows
    stops: Rows

    def __len__(self) -> int:
        return len(self.stops)

    @overload
    def __getitem__(self, at: int) -> Rows: ...
    @overload
    def __getitem__(self, at: slice) -> list[Rows]: ...
    def __getitem__(self, at: int | slice) -> Rows | list[Rows]:
        places = range(len(self.stops))[at]
        return self._of(places) if isinstance(places, int) else [self._of(place) for place in places]

    def _of(self, place: int) -> Rows:
        return self.rows[self.stops[place - 1] if place else 0 : self.stops[place]]

    @property
    def counts(self) -> Rows:
        """Rows of each node."""
        return np.diff(self.stops, prepend=0)


def joined(shares: Sequence[Rows]) -> Division:
    """Return the rows of each node, which are arrays of their own, as one division."""
    counts = np.fromiter(map(len, shares), dtype=np.int64, count=len(shares))
    return Division(np.concatenate(shares), np.cumsum(counts))


class DividedRows(Protocol):
    """The dataset that is divided, as far as a split looks at it."""

    num_rows: int

    def labels(self, column: str | None) -> Rows:
        """Return one value per row: of a column, or the targets for None."""


class Split(Protocol):
    """A way to divide rows among nodes."""

    name: ClassVar[str]

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        """Return how many nodes there are.

        Raises:
            SpecError: that number can't be had of this dataset.
        """

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        """Return each node's rows."""


def _given(split: Split, wanted: int | None) -> int:
    if wanted is None:
        raise SpecError(
            f"{type(split).__name__} needs a number of nodes: simulate(10, split={type(split).__name__}(...))"
        )
    return wanted


@dataclass(frozen=True, slots=True)
class IID:
    """Rows at random, as many at each node as at any other, or one more."""

    name: ClassVar[str] = "iid"

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        return _given(self, wanted)

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        each, more = divmod(source.num_rows, num_nodes)
        places = np.arange(1, num_nodes + 1)
        return Division(rng.permutation(source.num_rows), places * each + places.clip(max=more))


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Each label's rows go to the nodes in shares that are drawn from a Dirichlet distribution.

    Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning of Neural Networks", section 4,
    https://arxiv.org/abs/1905.12022

    Args:
        alpha: above 0: small for nodes with few labels and of very different sizes, large for alike ones.
        by: the column of a table whose values are the labels; None for the targets.
        min_rows: of every node: a draw that leaves a node with fewer is drawn again, 100 times at most.
    """

    alpha: float = 0.5
    by: str | None = None
    min_rows: int = 1

    name: ClassVar[str] = "dirichlet"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("Dirichlet(alpha=...)", self.alpha)
        check_count("Dirichlet(min_rows=...)", self.min_rows, 1)

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        return _given(self, wanted)

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        if self.min_rows * num_nodes > source.num_rows:
            raise SpecError(
                f"{self.min_rows} rows at each of {num_nodes} nodes are {self.min_rows * num_nodes}; the dataset has "
                f"{source.num_rows}"
            )
        kinds, counts = np.unique(source.labels(self.by), return_counts=True)
        if 2 * len(kinds) > source.num_rows and len(kinds) > MAX_KINDS:
            where = "the targets have" if self.by is None else f"column {self.by!r} has"
            raise SpecError(
                f"{where} {len(kinds)} different values in {source.num_rows} rows, which are no labels to divide by: "
                "name a column of labels, Dirichlet(by=...), or take another split"
            )
        order = np.argsort(source.labels(self.by), kind="stable")
        labelled = np.split(order, np.cumsum(counts)[:-1])
        fewest = 0
        for _ in range(MAX_DRAWS):
            owners = self._draw(labelled, num_nodes, rng)
            counts = np.bincount(owners, minlength=num_nodes)
            if counts.min() >= self.min_rows:
                order = np.argsort(owners, kind="stable")
                return Division(order, np.cumsum(counts))
            fewest = int((counts < self.min_rows).sum())
        raise SpecError(
            f"Dirichlet(alpha={self.alpha:g}) leaves {fewest} of {num_nodes} nodes with fewer than {self.min_rows} "
            f"rows, in each of {MAX_DRAWS} draws: take fewer nodes, a larger alpha, or a smaller min_rows"
        )

    def _draw(self, labelled: Sequence[Rows], num_nodes: int, rng: np.random.Generator) -> Rows:
        """Return each row's node.

        Args:
            labelled: the rows of each label.
        """
        owners = np.empty(sum(map(len, labelled)), dtype=np.int64)
        for own in labelled:
            rows = rng.permutation(own)
            drawn = rng.standard_gamma(self.alpha, num_nodes)
            if self.alpha > HUGE_ALPHA:
                drawn /= self.alpha  # the sum would be larger than any number
            shares = (
                np.cumsum(drawn) / drawn.sum() if drawn.sum() > 0 else np.linspace(0, 1, num_nodes + 1)[1:]
            )
            ends = np.rint(shares * len(rows)).astype(np.int64)
            owners[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right").clip(max=num_nodes - 1)
        return owners


@dataclass(frozen=True, slots=True)
class Shards:
    """Rows are sorted by label and cut into equal shards, of which each node is dealt some at random.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 3,
    https://arxiv.org/abs/1602.05629

    Args:
        per_node: shards of each node, so about the number of labels that it has.
        by: the column of a table whose values are the labels; None for the targets.
    """

    per_node: int = 2
    by: str | None = None

    name: ClassVar[str] = "shards"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("Shards(per_node=...)", self.per_node, 1)

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        return _given(self, wanted)

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        num_shards = num_nodes * self.per_node
        if num_shards > source.num_rows:
            raise SpecError(
                f"{num_nodes} nodes with {self.per_node} shards each need {num_shards} rows or more; the dataset has "
                f"{source.num_rows}"
            )
        _, labels = np.unique(source.labels(self.by), return_inverse=True)
        shards = np.array_split(np.argsort(labels, kind="stable"), num_shards)
        dealt = rng.permutation(num_shards).reshape(num_nodes, self.per_node)
        return joined([np.concatenate([shards[shard] for shard in hand]) for hand in dealt])


@dataclass(frozen=True, slots=True)
class ByColumn:
    """One node for each value of a table's column, in the order of the values.

    Args:
        column: such as a hospital or a user; it stays in the data.
    """

    column: str

    name: ClassVar[str] = "by_column"

    def __post_init__(self) -> None:
        check_kinds(self)

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        found = len(np.unique(source.labels(self.column)))
        if wanted not in (None, found):
            raise SpecError(
                f"column {self.column!r} has {found} values, which are as many nodes; found simulate({wanted}): "
                "leave the number out"
            )
        return found

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        _, values = np.unique(source.labels(self.column), return_inverse=True)
        order = np.argsort(values, kind="stable")
        return Division(order, np.cumsum(np.bincount(values)))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows at random, as many at each node as is said.

    Args:
        sizes: a whole number of rows for each node, which sum to those of the dataset; or shares, which sum to 1.
    """

    sizes: Sequence[float]

    name: ClassVar[str] = "sizes"

    def __post_init__(self) -> None:
        sizes = python_numbers(list(self.sizes) if is_list(self.sizes) else self.sizes)
        if not isinstance(sizes, list) or not sizes:
            raise SpecError(f"Sizes takes a list of numbers, one for each node; found {shown(self.sizes)}")
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < float("inf"):
                raise SpecError(f"Sizes takes numbers above 0; found {shown(size)}")
        object.__setattr__(self, "sizes", tuple(sizes))

    def num_nodes(self, source: DividedRows, wanted: int | None) -> int:
        if wanted not in (None, len(self.sizes)):
            raise SpecError(
                f"Sizes has {len(self.sizes)} numbers; found simulate({wanted}): one for each node"
            )
        return len(self.sizes)

    def divide(self, source: DividedRows, num_nodes: int, rng: np.random.Generator) -> Division:
        total = sum(self.sizes)
        if all(isinstance(size, int) for size in self.sizes):
            if total != source.num_rows:
                raise SpecError(f"Sizes sums to {total} rows; the dataset has {source.num_rows}")
            ends = np.cumsum(np.asarray(self.sizes, dtype=np.int64))
        else:
            if abs(total - 1) > 1e-6:
                raise SpecError(
                    f"Sizes of shares sums to {total:g}; expected 1, or whole numbers that sum to {source.num_rows}"
                )
            ends = np.rint(np.cumsum(self.sizes) * source.num_rows).astype(np.int64)
            ends[-1] = source.num_rows
        return Division(rng.permutation(source.num_rows), ends)


SPLITS: dict[str, type[Any]] = {split.name: split for split in (IID, Dirichlet, Shards, ByColumn, Sizes)}


def checked_rows(found: Any, num_nodes: int, num_rows: int, what: str) -> Division:
    """Return each node's rows as a split gave them.

    Args:
        what: names the split.

    Raises:
        SpecError: there are more or fewer nodes, rows that there are not, a row at two nodes, or a node without rows.
    """
    try:
        if isinstance(found, (str, bytes, Mapping)):
            raise TypeError
        divided = found if isinstance(found, Division) else None
        shares = () if divided is not None else [_whole(rows, what) for rows in found]
    except TypeError as error:
        raise SpecError(
            f"{what} gave {shown(found)}; expected a list with a list of row numbers for each node"
        ) from error
    given = len(shares) if divided is None else len(divided)
    if given != num_nodes:
        raise SpecError(f"{what} gave rows for {given} nodes; expected {num_nodes}")
    divided = joined(shares) if divided is None else divided
    counts, rows = divided.counts, divided.rows
    if not counts.all():
        empty = (np.flatnonzero(counts == 0) + 1).tolist()
        listed = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise SpecError(
            f"{what} leaves {len(empty)} of {num_nodes} nodes without a row (number {listed}); the dataset has "
            f"{num_rows} rows: take fewer nodes or another split"
        )
    if rows.min() < 0 or rows.max() >= num_rows:
        odd = int(rows[(rows < 0) | (rows >= num_rows)][0])
        raise SpecError(f"{what} gave row {odd}; the dataset has rows 0 to {num_rows - 1}")
    _check_once(divided, num_rows, what)
    return divided


def _check_once(divided: Division, num_rows: int, what: str) -> None:
    """Refuse a row that is given twice.

    Raises:
        SpecError: it says which, and to whom.
    """
    is_given = np.zeros(num_rows, dtype=bool)
    is_given[divided.rows] = True
    if np.count_nonzero(is_given) == len(divided.rows):
        return
    counts = np.bincount(divided.rows, minlength=num_rows)
    row = int(counts.argmax())
    nodes = [number for number, rows in enumerate(divided, 1) if row in rows]
    raise SpecError(
        f"{what} gave row {row} to {len(nodes)} nodes; expected one at most"
        if len(nodes) > 1
        else f"{what} gave row {row} {int(counts.max())} times to node number {nodes[0]}; expected once at most"
    )


def _whole(rows: Any, what: str) -> Rows:
    try:
        found = np.asarray(rows)
        if found.dtype.hasobject or not found.ndim:
            raise TypeError
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SpecError(f"{what} gave {shown(rows)} for a node; expected a list of whole numbers") from error
    if not found.size:
        return np.empty(0, dtype=np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise SpecError(
            f"{what} gave an array of {found.dtype} of shape {list(found.shape)} for a node; expected a list of whole "
            "numbers"
        )
    if found.dtype == np.uint64 and found.max() > np.iinfo(np.int64).max:
        raise SpecError(f"{what} gave row {found.max()}, and no dataset has so many")
    return found.astype(np.int64, copy=False)
