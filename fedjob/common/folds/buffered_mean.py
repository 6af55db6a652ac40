"""The mean of a buffer of contributions in which older ones count less: the aggregator of FedBuff.

Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation",
algorithm 1 and section 5.1, https://arxiv.org/abs/2106.06639
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.folds.base import Fold, Origin, totalled
from fedjob.common.folds.mean import mean_of
from fedjob.common.ranges import check_not_negative

if TYPE_CHECKING:
    from fedjob.common.contribution import Contribution


@dataclass(frozen=True, slots=True)
class BufferedMean(Fold):
    """`sum(s_k * value_k) / number of contributions`, with `s_k = 1 / (1 + staleness_k)^exponent`.

    Args:
        exponent: 0 or more; with 0, old contributions count as much as new ones.
        weighted: use the contributions' weights: `sum(weight_k * s_k * value_k) / sum(weight_k)`.
    """

    exponent: float = 0.5
    weighted: bool = False

    name: ClassVar[str] = "buffered_mean"

    def __post_init__(self) -> None:
        check_not_negative("BufferedMean(exponent=...)", self.exponent)

    def fold(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        shares = self.shares([c.weight for c in contributions], [c.staleness for c in contributions])
        return totalled(mean_of([c.value for c in contributions], shares), contributions)

    def shares(self, weights: Sequence[float], staleness: Sequence[int]) -> list[float]:
        """Return the factor of each contribution; the factors sum to 1 where none is stale, else to less."""
        whole = float(sum(weights)) if self.weighted else 0.0
        shares = [weight / whole if whole > 0 else 1 / len(weights) for weight in weights]
        return [
            share * float((1 + rounds) ** -self.exponent)
            for share, rounds in zip(shares, staleness, strict=True)
        ]
