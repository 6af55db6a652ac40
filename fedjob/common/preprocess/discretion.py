"""What a node may tell of its rows, when a step finds values in the data of all nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.analytics.releasebook import ReleaseBook

Places = npt.NDArray[np.int64]
"""Rows of a table, by their place in it."""


@dataclass(frozen=True, slots=True)
class Discretion:
    """What may be told.

    Args:
        admit: whether something may be told of these rows: sums over a column's values, or, without a column,
            how many rows they are. What is admitted is told.
        tells_extremes: the smallest and largest values, which are single rows', may be told.
    """

    admit: Callable[[Places, str], bool]
    tells_extremes: bool = True


def at_least(min_rows: int) -> Discretion:
    """Return the rule that looks at each set of rows alone."""
    return Discretion(lambda places, column: len(places) >= max(1, min_rows))


@contextmanager
def audited(
    book: ReleaseBook, source: pd.DataFrame, frame: pd.DataFrame, *, tells_extremes: bool
) -> Iterator[Discretion]:
    """Yield the rule that also looks at what was told before, see `analytics/releases.py`.

    Steps derive columns from others, and fill in what is missing. What is told of a derived column is held against
    everything that was told of any column; a value that was filled in is no value of its row's.

    Args:
        source: the dataset as it lies in its file.
        frame: what the steps so far left; its index names the rows of `source`.
    """
    from fedjob.common.analytics.releases import Telling

    kept = frame.index.to_numpy()
    everything = np.arange(len(kept))

    with book.opened(source, kept) as admits:

        def admit(places: Places, column: str) -> bool:
            if not len(places):
                return False
            if not column:
                return admits([Telling(places)])[0]
            for name in [column] if column in source else list(source):
                used = np.intersect1d(places, everything[source[name].notna().to_numpy()[kept]])
                if not admits([Telling(everything, (str(name),), used)])[0]:
                    return False
            return True

        yield Discretion(admit, tells_extremes)
