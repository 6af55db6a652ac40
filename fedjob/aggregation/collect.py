"""An aggregator without arithmetic: the list of every node's value, in the order of node ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Collect(Aggregator):
    """The list of the values, unchanged; weights and metrics add."""

    name: ClassVar[str] = "collect"
    arithmetic: ClassVar[bool] = False

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return totalled([c.value for c in contributions], contributions)
