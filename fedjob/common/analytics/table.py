"""A node's table as an analytic protocol sees it, with the audit of what may be told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedjob.common.analytics.columns import Rows
from fedjob.common.analytics.releases import Telling
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.common.readers.base import EXTREMES, flag

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.protocols.base import Local

Admit = Callable[[Sequence[Telling]], list[bool]]


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
        """Refuse the whole answer where it may not be told.

        Raises:
            NodeFailure: `min_rows`.
        """
        if not self.admit([telling])[0]:
            raise NodeFailure(
                self.node,
                "min_rows",
                f"{what} would be about fewer rows than the owner's minimum of {self.min_rows}, or, beside what "
                "was told before, about their difference",
            )


def open_table(local: Local) -> Table:
    """Return the table of a node's dataset.

    Raises:
        NodeFailure: `columns`, it is no table; `min_rows`, the owner sets a minimum, and what prepares the rows
            hides which they are.
    """
    min_rows = int(local.limits.get("min_rows", 0))
    try:
        frame = local.data.frame().reset_index(drop=True)
    except SpecError as error:
        raise NodeFailure(local.node, "columns", f"these data are no table: {error}") from error
    book = local.releases
    if book is None or min_rows <= 1:
        return Table(local.node, frame, 0, lambda tellings: [True] * len(tellings))
    try:
        source, kept = local.data.source()
    except SpecError as error:
        raise NodeFailure(local.node, "min_rows", str(error)) from error
    return Table(
        local.node,
        frame,
        min_rows,
        lambda tellings: book.admit(source, kept, tellings),
        flag(local.data.options, EXTREMES, default=False),
    )
