"""The coordinate-wise median: the median of every number over the nodes.

Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning:
Towards Optimal Statistical Rates", definition 1, https://arxiv.org/abs/1803.01498

    total_j = median of value_kj over the nodes k       for every number j

With an even number of nodes it is the middle between the two central values.
Every node has one vote, whatever its weight. It stays among the honest values as
long as fewer than half of the nodes are wrong. It needs
several contributions to compare: under secure aggregation these are the means
of groups of nodes, with `SecAgg(groups=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.elementwise import aggregate_places
from fedjob.aggregation.sorting import median_of_rows

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Median(Aggregator):
    """The median of every number; weights and metrics add."""

    name: ClassVar[str] = "median"
    elementwise: ClassVar[bool] = True

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return totalled(aggregate_places([c.value for c in contributions], median_of_rows), contributions)
