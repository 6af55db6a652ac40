"""Centred clipping: the mean of updates, each of which moves the total by a bounded distance at most.

Karimireddy, He, Jaggi 2021, "Learning from History for Byzantine Robust
Optimization", equation (CC), https://arxiv.org/abs/2012.10333

    v     = origin                                  the parameters that nodes began the round with
    v     = v + 1/n sum_k (value_k - v) * min(1, max_norm / |value_k - v|)      num_steps times
    total = v

The norm is over all floating-point tensors together. Every node has one vote,
whatever its weight. v moves by multiples of the values' updates only, so their
inner products are enough to find them: two passes over the files, whatever the
number of steps. It needs the contributions one by one, so it can't run under
secure aggregation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.geometry import Matrix, combined, products_about, squared_from
from fedjob.aggregation.robust.norm_bounded import shrink
from fedjob.common.checks import check_count, check_kinds, check_positive

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class CentredClipping(Aggregator):
    """Steps from the parameters that nodes began with, each the mean of clipped differences.

    Weights and metrics add.

    Args:
        max_norm: the largest norm of a difference, above 0; longer ones are scaled down to it.
        num_steps: 1 or more.
    """

    max_norm: float = 1.0
    num_steps: int = 1
    name: ClassVar[str] = "centred_clipping"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("CentredClipping(max_norm=...)", self.max_norm)
        check_count("CentredClipping(num_steps=...)", self.num_steps, 1)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        shares = self._shares(products_about(values, origin))
        return totalled(combined(values, shares, origin), contributions)

    def _shares(self, products: Matrix) -> list[float]:
        """Return the factor with which each update is part of v."""
        shares = [0.0] * len(products)
        for _ in range(self.num_steps):
            squared = squared_from(products, shares)
            pulls = [shrink(self.max_norm, square) / len(products) for square in squared]
            stay = 1 - math.fsum(pulls)
            shares = [share * stay + pull for share, pull in zip(shares, pulls, strict=True)]
        return shares
