"""The geometric median of whole contributions.

Pillutla, Kakade, Harchaoui 2019, "Robust Aggregation for Federated Learning",
algorithm 2 (smoothed Weiszfeld), https://arxiv.org/abs/1912.13445

    total = the z that makes sum_k |value_k - z| smallest
    z     = sum_k b_k value_k / sum_k b_k,   b_k = 1 / max(smoothing, |value_k - z|),   again and again

Every node has one vote, whatever its weight. It stays near the honest values as
long as fewer than half of the nodes are wrong. z is always a mean of the values, so
their inner products are enough to find its shares: two passes over the files,
whatever the number of steps. It needs the contributions one by one here, so it
can't run under secure aggregation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.geometry import Matrix, products_about_median, squared_from
from fedjob.aggregation.mean import mean_of
from fedjob.common.checks import check_count, check_kinds, check_positive

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution

_ENOUGH = 1e-12
"""A change of the shares that is too small for a further step."""


@dataclass(frozen=True, slots=True)
class GeometricMedian(Aggregator):
    """The value with the least sum of distances to all; weights and metrics add.

    Args:
        max_steps: of Weiszfeld's iteration, 1 or more; it ends earlier when the shares no longer change.
        smoothing: above 0; smaller distances count as this much, so that no share becomes infinite.
    """

    max_steps: int = 100
    smoothing: float = 1e-6
    name: ClassVar[str] = "geometric_median"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("GeometricMedian(max_steps=...)", self.max_steps, 1)
        check_positive("GeometricMedian(smoothing=...)", self.smoothing)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        shares = self._shares(products_about_median(values))
        return totalled(mean_of(values, shares), contributions)

    def _shares(self, products: Matrix) -> list[float]:
        """Return the share of each value; the search begins at their median, number by number."""
        shares = self._pulls([row[k] for k, row in enumerate(products)])
        for _ in range(self.max_steps):
            before, shares = shares, self._pulls(squared_from(products, shares))
            if max(abs(a - b) for a, b in zip(shares, before, strict=True)) <= _ENOUGH:
                break
        return shares

    def _pulls(self, squared: Sequence[float]) -> list[float]:
        """Return shares that fall with the distance; a value infinitely far away has a share of 0."""
        pulls = [
            1 / max(self.smoothing, math.sqrt(square)) if square < math.inf else 0.0 for square in squared
        ]
        total = math.fsum(pulls)
        return [pull / total for pull in pulls]
