"""A node's table as an analytic protocol sees it, with the audit of what may be told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedjob.common.analytics.releases import Admit, Rows, Telling
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.common.readers.base import EXTREMES, flag

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.protocols.base import Local


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a dataset.

    Args:
        min_rows: nothing is told of fewer rows; 0 where the owner sets no limit.
        admit: decides which of several numbers may be told.
        tells_extremes: the smallest and largest values, which are single rows', may be told.
    """

    node: str
    frame: pd.DataFrame
    min_rows: int
    admit: Admit
    tells_extremes: bool = True

    @property
    def all_rows(self) -> Rows:
        """Every row's place."""
        return np.arange(len(self.frame))

    def need(self, telling: Telling, what: str) -> None:
        """Refuse the whole answer where this may not be told.

        Raises:
            NodeFailure: `min_rows`.
        """
        if not self.admit([telling])[0]:
            raise self.withheld(what)

    def withheld(self, what: str) -> NodeFailure:
        """Return the error that says so."""
        return NodeFailure(
            self.node,
            "min_rows",
            f"{what} would tell of fewer rows than the owner's minimum of {self.min_rows}, alone or as the "
            "difference from what was told before",
        )


@contextmanager
def opened_table(local: Local) -> Iterator[Table]:
    """Have the table of a node's dataset, and the record of what was told of it.

    Raises:
        NodeFailure: `columns`, it is no table; `min_rows`, the owner sets a minimum, and what prepares the rows
            hides which they are.
    """
    if local.data is None:
        raise NodeFailure(local.node, "columns", "the job has no data: give it a table, data=...")
    try:
        frame = local.data.frame().reset_index(drop=True)
    except SpecError as error:
        raise NodeFailure(local.node, "columns", f"these data are no table: {error}") from error
    if local.releases is None:
        yield Table(local.node, frame, 0, lambda tellings: [True] * len(tellings))
        return
    try:
        source, kept = local.data.source()
    except SpecError as error:
        raise NodeFailure(local.node, "min_rows", str(error)) from error
    tells_extremes = flag(local.data.options, EXTREMES, default=False)
    with local.releases.opened(source, kept) as admit:
        yield Table(local.node, frame, local.releases.min_rows, admit, tells_extremes)
