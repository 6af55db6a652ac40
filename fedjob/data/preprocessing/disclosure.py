"""The rule on which numbers about its rows a node may release while steps take values from all nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.privacy.release_book import ReleaseBook

Places = npt.NDArray[np.int64]
"""The positions of some rows in a table."""


@dataclass(frozen=True, slots=True)
class Discretion:
    """A rule on which numbers may be released.

    Args:
        admit: decides whether a number about these rows may be released: sums over a column's values, or, where
            the column is empty, the number of rows. A number that is admitted counts as released.
        releases_extremes: whether the smallest and largest values, which belong to single rows, may be released.
    """

    admit: Callable[[Places, str], bool]
    releases_extremes: bool = True


def at_least(min_rows: int) -> Discretion:
    """Return the rule that checks the size of each set of rows, whatever was released before."""
    return Discretion(lambda places, column: len(places) >= max(1, min_rows))


@contextmanager
def audited(
    book: ReleaseBook, source: pd.DataFrame, frame: pd.DataFrame, *, releases_extremes: bool
) -> Iterator[Discretion]:
    """Yield the rule that also compares with earlier releases, see `privacy/releases.py`.

    Steps derive columns from others, and fill in missing values. A number about a derived column is compared with
    the releases about every column, because any of them may be its source. A value that was filled in does not
    count as a value of its row.

    Args:
        source: the dataset as it lies in its file.
        frame: the rows that the steps so far kept; its index holds their positions in `source`.
    """
    from fedjob.privacy.isolation import marks_few
    from fedjob.privacy.releases import Release

    kept = frame.index.to_numpy()
    everything = np.arange(len(kept))

    with book.opened(source, kept) as admits:

        def admit(places: Places, column: str) -> bool:
            if not len(places):
                return False
            if not column:
                return admits([Release(places)])[0]
            if marks_few(_numbers(frame, column, places), book.min_rows, moments=2):
                return False
            for name in [column] if column in source else list(source):
                used = np.intersect1d(places, everything[source[name].notna().to_numpy()[kept]])
                if not admits([Release(everything, (str(name),), used)])[0]:
                    return False
            return True

        yield Discretion(admit, releases_extremes)


def _numbers(frame: pd.DataFrame, column: str, places: Places) -> npt.NDArray[np.float64]:
    """Return the values of a column of numbers at these positions, without those that are missing."""
    import pandas as pd

    if column not in frame:
        return np.empty(0)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    found: npt.NDArray[np.float64] = values[places]
    return found[~np.isnan(found)]
