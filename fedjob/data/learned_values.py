"""A node's contribution to a step that takes values from the data of all nodes, computed from its files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from fedjob.data.loader import open_dataset
from fedjob.data.preprocessing.base import preparing
from fedjob.data.preprocessing.learning import measure
from fedjob.data.readers.base import EXTREMES, flag

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion
    from fedjob.privacy.release_book import ReleaseBook


def measured(info: Mapping[str, Any], min_rows: int, book: ReleaseBook | None) -> tuple[dict[str, Any], int]:
    """Return a node's contribution to the next step that needs values, and the number of rows that it is about.

    Args:
        info: of the dataset, with `preprocess`, the declared steps, and `learned`, the complete steps so far.
        book: the record of what was released about the dataset; None where the owner sets no minimum of rows.

    Raises:
        PreparationError: a step does not fit the data; the message names columns, but no counts and no values.
        TooFewRows: the number of rows that are left may not be released.
    """
    from fedjob.data.preprocessing.disclosure import at_least, audited

    own = {name: value for name, value in info.items() if name not in ("preprocess", "learned")}
    dataset = open_dataset(own)
    source = dataset.frame().reset_index(drop=True)

    def discretion(frame: pd.DataFrame) -> AbstractContextManager[Discretion]:
        if book is None:
            return nullcontext(at_least(min_rows))
        return audited(book, source, frame, releases_extremes=flag(dataset.options, EXTREMES, default=False))

    with preparing():
        return measure(source, info.get("preprocess") or [], info.get("learned") or [], discretion)
