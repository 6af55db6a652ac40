"""The weighted mean of updates that are scaled down to a largest norm.

Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated
Learning?", section 4, https://arxiv.org/abs/1911.07963

    update_k = value_k - origin                     origin: the parameters that nodes began the round with
    total    = origin + sum_k weight_k / weight * update_k * min(1, max_norm / |update_k|)

The norm is over all floating-point tensors together. No node moves the total by
more than its share of `max_norm`. It needs the contributions one by one, so it
can't run under secure aggregation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.geometry import combined, squared_norms
from fedjob.aggregation.mean import shares_of
from fedjob.common.checks import check_kinds, check_positive

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class NormBounded(Aggregator):
    """The weighted mean with every update at most `max_norm` long; weights and metrics add.

    Args:
        max_norm: above 0. Where no update is longer, the total is the weighted mean of the values.
    """

    max_norm: float = 1.0
    name: ClassVar[str] = "norm_bounded"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("NormBounded(max_norm=...)", self.max_norm)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        squared, shares = squared_norms(values, origin), shares_of(contributions)
        if all(square <= self.max_norm**2 for square in squared):
            return totalled(combined(values, shares, None), contributions)
        bounded = [
            share * shrink(self.max_norm, square) for share, square in zip(shares, squared, strict=True)
        ]
        return totalled(combined(values, bounded, origin), contributions)


def shrink(max_norm: float, squared: float) -> float:
    """Return the factor, at most 1, that makes a vector at most `max_norm` long.

    Args:
        squared: its squared length, 0 or more, not NaN.
    """
    return 1.0 if squared <= max_norm**2 else float(max_norm / squared**0.5)
