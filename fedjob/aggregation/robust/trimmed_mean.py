"""The coordinate-wise trimmed mean: the mean of every number over the nodes, without the extremes.

Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning:
Towards Optimal Statistical Rates", definition 2, https://arxiv.org/abs/1803.01498

    total_j = mean of value_kj without the b smallest and the b largest       for every number j

Every node has one vote, whatever its weight. It stays among the honest values as
long as at most b nodes are wrong. It needs
several contributions to compare: under secure aggregation these are the means
of groups of nodes, with `SecAgg(groups=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.elementwise import aggregate_places
from fedjob.aggregation.sorting import sorted_rows
from fedjob.common.checks import check_count, check_kinds

if TYPE_CHECKING:
    import torch

    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class TrimmedMean(Aggregator):
    """The mean of every number without its extremes; weights and metrics add.

    Args:
        num_trimmed: b, how many values are left out at either end, 0 or more; 2 b + 1 nodes are needed.
    """

    num_trimmed: int = 1
    name: ClassVar[str] = "trimmed_mean"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("TrimmedMean(num_trimmed=...)", self.num_trimmed, 0)

    @property
    def min_nodes(self) -> int:
        return 2 * self.num_trimmed + 1

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return totalled(aggregate_places([c.value for c in contributions], self._trim), contributions)

    def _trim(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        kept = sorted_rows(rows, self.num_trimmed, len(rows) - self.num_trimmed)
        total = kept[0].to(torch.float64, copy=True)
        for row in kept[1:]:
            total.add_(row)
        return total.div_(len(kept)).clamp_(kept[0].to(torch.float64), kept[-1].to(torch.float64))
