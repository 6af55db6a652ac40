"""Krum, multi-Krum and Bulyan: aggregators that choose contributions by their nearest neighbours.

Bulyan: contributions chosen by Krum, then the mean of the numbers around their median.

El Mhamdi, Guerraoui, Rouault 2018, "The Hidden Vulnerability of Distributed
Learning in Byzantium", section 4, https://arxiv.org/abs/1802.07927

    S       = n - 2 f values, chosen one after another by Krum among those that are left
    total_j = mean of the |S| - 2 f values of S that are closest to their median      for every number j

n is the number of contributions, of which f may be Byzantine, which means wrong in
any way; it takes n >= 4 f + 3. Krum lets a Byzantine node be far off in one number
out of a million; Bulyan does not.
Every node has one vote, whatever its weight. It needs the contributions one by
one, so it can't run under secure aggregation.

Krum and multi-Krum: the contributions that lie closest to their neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with
Adversaries: Byzantine Tolerant Gradient Descent", sections 4 and 5,
https://papers.nips.cc/paper/6617-machine-learning-with-adversaries-byzantine-tolerant-gradient-descent

    score_k = sum of the n - f - 2 smallest |value_k - value_i|^2 over i != k
    total   = plain mean of the m values with the smallest scores        (m = 1: Krum)

n is the number of contributions, of which f may be Byzantine, which means wrong in
any way; it takes n >= 2 f + 3. Every node has one vote, whatever its weight. It
needs the contributions one by one, so it can't run under secure aggregation. With
m = 1 the total is the model of one node, and the researcher can see of which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.elementwise import aggregate_places
from fedjob.aggregation.geometry import Matrix, squared_distances
from fedjob.aggregation.mean import mean_of
from fedjob.aggregation.sorting import sorted_rows
from fedjob.common.checks import check_count, check_kinds

if TYPE_CHECKING:
    import torch

    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Bulyan(Aggregator):
    """The mean, around the median, of the contributions that Krum chooses; weights and metrics add.

    Args:
        num_byzantine: how many contributions may be wrong, 0 or more.
    """

    num_byzantine: int = 1
    name: ClassVar[str] = "bulyan"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("Bulyan(num_byzantine=...)", self.num_byzantine, 0)

    @property
    def min_nodes(self) -> int:
        return 4 * self.num_byzantine + 3

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        distances = squared_distances(values)
        left = list(range(len(values)))
        chosen: list[int] = []
        while len(chosen) < len(values) - 2 * self.num_byzantine:
            best = by_score(distances, left, self.num_byzantine)[0]
            left.remove(best)
            chosen.append(best)
        value = aggregate_places([values[k] for k in sorted(chosen)], self._around_median)
        return totalled(value, contributions)

    def _around_median(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean of the numbers closest to the median: a run of the sorted ones."""
        import torch

        ordered = torch.stack(sorted_rows(rows, 0, len(rows))).to(torch.float64)
        count = len(ordered) - 2 * self.num_byzantine
        middle = ordered[(len(ordered) - 1) // 2] * 0.5 + ordered[len(ordered) // 2] * 0.5
        firsts = range(len(ordered) - count + 1)
        reach = torch.stack(
            [torch.maximum(middle - ordered[k], ordered[k + count - 1] - middle) for k in firsts]
        )
        best = reach.argmin(0)
        total = torch.zeros_like(middle)
        for offset in range(count):
            total.add_(ordered.gather(0, (best + offset)[None])[0])
        return total.div_(count).clamp_(ordered[0], ordered[-1])


@dataclass(frozen=True, slots=True)
class Krum(Aggregator):
    """The mean of the contributions that have the closest neighbours; weights and metrics add.

    Args:
        num_byzantine: how many contributions may be wrong, 0 or more.
        num_selected: how many are averaged, 1 or more; 2 or more is multi-Krum.
    """

    num_byzantine: int = 1
    num_selected: int = 1
    name: ClassVar[str] = "krum"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("Krum(num_byzantine=...)", self.num_byzantine, 0)
        check_count("Krum(num_selected=...)", self.num_selected, 1)

    @property
    def min_nodes(self) -> int:
        return max(2 * self.num_byzantine + 3, self.num_byzantine + 2 + self.num_selected)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        ranked = by_score(squared_distances(values), list(range(len(values))), self.num_byzantine)
        chosen = [values[k] for k in sorted(ranked[: self.num_selected])]
        return totalled(mean_of(chosen, [1 / len(chosen)] * len(chosen)), contributions)


def by_score(distances: Matrix, among: Sequence[int], num_byzantine: int) -> list[int]:
    """Return the indices `among`, ordered by Krum score, best first.

    Two contributions that are each other's nearest neighbours have equal scores. Of such,
    the one closer to all others comes first, so the order of contributions does not matter.

    Args:
        distances: squared, of every two contributions.
        among: indices of the contributions that are scored, against each other only.
    """
    neighbours = max(1, len(among) - num_byzantine - 2)

    def score(k: int) -> tuple[float, float]:
        nearest = sorted(distances[k][i] for i in among if i != k)
        return sum(nearest[:neighbours]), sum(nearest)

    return sorted(among, key=score)
