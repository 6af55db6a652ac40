"""Columns of a node's table as numbers or as categories; what does not fit is named, its values are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedjob.common.checks import python_numbers, shown
from fedjob.common.errors import NodeFailure, SpecError, UnreadableData
from fedjob.data.category import category_text
from fedjob.data.readers.base import EXTREMES, flag
from fedjob.privacy.isolation import differ_in_few
from fedjob.privacy.releases import Admit, Floats, Release, Rows

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.privacy.release_book import OpenBook
    from fedjob.protocols.base import Local

MAX_CATEGORIES = 1000
"""Different values that a column may have at a node to be taken for categories."""

MAX_CATEGORY_CHARS = 200

_SUM_OF = "sum of "
"""The question under which the record notes that a column was summed."""

SEPARATOR = "\x1f"
"""Between the values that name a group or a cell; no category has it in its name."""


def check_names(what: str, names: str | Sequence[str], *, least: int = 0) -> tuple[str, ...]:
    """Return one name or several as a tuple without repetitions.

    Raises:
        SpecError: they are no names, or fewer than `least`.
    """
    try:
        given = (names,) if isinstance(names, str) else tuple(python_numbers(names))
    except TypeError:
        given = (None,)
    if any(not isinstance(name, str) or not name for name in given):
        raise SpecError(f"{what} names columns: one name or a list of names; found {shown(names)}")
    if len(set(given)) < len(given):
        raise SpecError(f"{what} names a column twice: {', '.join(given)}")
    if len(given) < least:
        raise SpecError(
            f"{what} names at least {least} column{'s' if least > 1 else ''}; found {shown(names)}"
        )
    return given


def need_columns(node: str, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a table without one of these columns.

    Raises:
        NodeFailure: `columns`; names those that are missing.
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise NodeFailure(
            node, "columns", f"there is no column {', '.join(map(repr, missing))} in the data of this node"
        )


def numbers(node: str, frame: pd.DataFrame, name: str) -> Floats:
    """Return a column as float64; what is missing is NaN, a column without any value all NaN.

    Raises:
        NodeFailure: `columns`; it is not there, or holds something else than finite numbers.
    """
    need_columns(node, frame, [name])
    column = frame[name]
    if column.isna().all():
        return np.full(len(frame), np.nan)
    if getattr(column.dtype, "kind", "O") not in "iufb":
        raise NodeFailure(
            node, "columns", f"column {name!r} does not hold numbers at this node: cast or encode it first"
        )
    values: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    if np.isinf(values).any():
        raise NodeFailure(node, "columns", f"column {name!r} holds infinite numbers at this node")
    return values


def categories(node: str, frame: pd.DataFrame, name: str) -> npt.NDArray[Any]:
    """Return a column as texts, None where one is missing.

    Whole numbers are written without a point, so that a node that read `1` and one that
    read `1.0` mean the same.

    Raises:
        NodeFailure: `columns`; it is not there, or has too many different values.
    """
    need_columns(node, frame, [name])
    import pandas as pd

    codes, distinct = pd.factorize(frame[name])
    if len(distinct) > MAX_CATEGORIES:
        raise NodeFailure(
            node,
            "columns",
            f"column {name!r} has more than {MAX_CATEGORIES} different values at this node: "
            "it holds no categories; bin it first",
        )
    texts = np.array([*(_name_of(value) for value in distinct), None], dtype=object)
    found: npt.NDArray[Any] = texts[codes]  # where one is missing the code is -1: the last
    return found


def _name_of(value: Any) -> str:
    return category_text(value).replace(SEPARATOR, " ")[:MAX_CATEGORY_CHARS]


def category_value(text: str) -> Any:
    """Return a category as a number where its name is that of one, else the name."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if category_text(value) == text:
            return value
    return text


def by_value(texts: npt.NDArray[Any], rows: Rows) -> dict[str, Rows]:
    """Divide rows by their category, those without one left out; categories in order."""
    import pandas as pd

    codes, found = pd.factorize(texts[rows])
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], range(len(found) + 1))
    parts = {
        text: rows[order[start:end]]
        for text, start, end in zip(found.tolist(), ends[:-1], ends[1:], strict=True)
    }
    return {text: parts[text] for text in sorted(parts, key=in_order)}


def in_order(text: str) -> tuple[bool, Any, str]:
    """Sort numbers by value, before all other names."""
    value = category_value(text)
    number = isinstance(value, (int, float)) and value == value
    return (not number, value if number else 0, text)


@dataclass(frozen=True, slots=True)
class AuditedTable:
    """The rows of a dataset, and the rule on what may be released about them.

    Args:
        num_read: the rows of the dataset, before preprocessing left any out.
        min_rows: no number about fewer rows is released; 0 where the owner sets no limit.
        admit: decides which of several numbers may be released.
        releases_extremes: whether the smallest and largest values, which belong to single rows, may be released.
        book: the record of releases, while it is open; None where the owner sets no limit.
        used: the rows that a model's sums are over; None for all.
    """

    node: str
    frame: pd.DataFrame
    num_read: int
    min_rows: int
    admit: Admit
    releases_extremes: bool = True
    book: OpenBook | None = None
    used: Rows | None = None

    @property
    def all_rows(self) -> Rows:
        """The positions of all rows."""
        return np.arange(len(self.frame))

    def coverage(self, num_used: int) -> dict[str, int]:
        """Return how many rows were read, how many of them preprocessing kept, and how many the numbers are about.

        That preprocessing kept so many is a number about a set of rows like any other: where it may not be
        released it is not there. It is decided last, so that it takes the place of no number that was asked for.

        Args:
            num_used: the rows that the numbers are about, which may be released.
        """
        kept = {"kept": len(self.frame)}
        if len(self.frame) != self.num_read and not self.admit([Release(self.all_rows)])[0]:
            kept = {}
        return {"read": self.num_read, **kept, "used": num_used}

    def need(self, telling: Release, what: str) -> None:
        """Check that a number may be released; otherwise the node refuses the whole answer.

        Args:
            what: the numbers of the answer, in words for the message.

        Raises:
            NodeFailure: with reason `min_rows`: it may not be released.
        """
        if not self.admit([telling])[0]:
            raise self.withheld(what)

    def may_sum(self, names: Sequence[str]) -> bool:
        """Decide whether columns may be summed beside those that were before, and record it if so.

        The difference between the sums of two columns that differ in few rows is a sum over these rows.
        """
        if self.book is None:
            return True
        columns = {name: self.values(name) for name in names if name in self.frame}
        before = [name for name in map(str, self.frame) if self.book.answered(f"{_SUM_OF}{name}")]
        others = columns | {name: self.values(name) for name in before}
        for name, values in columns.items():
            if any(differ_in_few(values, other, self.min_rows) for other in others.values()):
                return False
            others[name] = values
        for name in columns:
            self.book.answer(f"{_SUM_OF}{name}", True)
        return True

    def values(self, name: str) -> Floats:
        """Return a column as numbers, NaN where it holds none."""
        import pandas as pd

        values: Floats = pd.to_numeric(self.frame[name], errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan
        )
        return values

    def withheld(self, what: str) -> NodeFailure:
        """Return the error that these numbers may not be released."""
        return NodeFailure(
            self.node,
            "min_rows",
            f"{what} would be about fewer rows than the owner's minimum of {self.min_rows}, alone or as the "
            "difference from an earlier release",
        )


def frame_of(local: Local) -> pd.DataFrame:
    """Return the table of a node's dataset, its rows numbered from 0.

    Raises:
        NodeFailure: with reason `columns`: the dataset is no table.
    """
    if local.data is None:
        raise NodeFailure(local.node, "columns", "the job has no data: give it a table, data=...")
    try:
        frame: pd.DataFrame = local.data.frame().reset_index(drop=True)
    except UnreadableData:
        raise
    except SpecError as error:
        raise NodeFailure(local.node, "columns", f"these data are no table: {error}") from error
    return frame


@contextmanager
def opened_table(local: Local) -> Iterator[AuditedTable]:
    """Yield the table of a node's dataset, with the record of its releases open.

    Raises:
        NodeFailure: with reason `columns`: the dataset is no table; with reason `min_rows`: the owner sets a
            minimum, and preprocessing makes it impossible to identify the rows.
    """
    frame = frame_of(local)
    if local.releases is None:
        yield AuditedTable(
            local.node, frame, local.data.rows_read or len(frame), 0, lambda tellings: [True] * len(tellings)
        )
        return
    try:
        source, kept = local.data.source()
    except SpecError as error:
        raise NodeFailure(local.node, "min_rows", str(error)) from error
    releases_extremes = flag(local.data.options, EXTREMES, default=False)
    with local.releases.opened(source, kept) as book:
        yield AuditedTable(
            local.node, frame, len(source), local.releases.min_rows, book, releases_extremes, book
        )
