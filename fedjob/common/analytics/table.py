"""A node's table as an analytic protocol sees it, with the audit of the numbers that may be released about it."""

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
    """The rows of a dataset, and the rule on what may be released about them.

    Args:
        min_rows: no number about fewer rows is released; 0 where the owner sets no limit.
        admit: decides which of several numbers may be released.
        tells_extremes: whether the smallest and largest values, which belong to single rows, may be released.
    """

    node: str
    frame: pd.DataFrame
    min_rows: int
    admit: Admit
    tells_extremes: bool = True

    @property
    def all_rows(self) -> Rows:
        """The positions of all rows."""
        return np.arange(len(self.frame))

    def need(self, telling: Telling, what: str) -> None:
        """Check that a number may be released; otherwise the node refuses the whole answer.

        Args:
            what: the numbers of the answer, in words for the message.

        Raises:
            NodeFailure: with reason `min_rows`: it may not be released.
        """
        if not self.admit([telling])[0]:
            raise self.withheld(what)

    def withheld(self, what: str) -> NodeFailure:
        """Return the error that these numbers may not be released."""
        return NodeFailure(
            self.node,
            "min_rows",
            f"{what} would be about fewer rows than the owner's minimum of {self.min_rows}, alone or as the "
            "difference from an earlier release",
        )


@contextmanager
def opened_table(local: Local) -> Iterator[Table]:
    """Yield the table of a node's dataset, with the record of its releases open.

    Raises:
        NodeFailure: with reason `columns`: the dataset is no table; with reason `min_rows`: the owner sets a
            minimum, and preprocessing makes it impossible to identify the rows.
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
