"""Krum and multi-Krum: the contributions that lie closest to their neighbours.

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

from fedjob.common.folds.base import Fold, Origin, totalled
from fedjob.common.folds.geometry import Matrix, squared_distances
from fedjob.common.folds.mean import mean_of
from fedjob.common.ranges import check_count

if TYPE_CHECKING:
    from fedjob.common.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Krum(Fold):
    """The mean of the contributions that have the closest neighbours; weights and metrics add.

    Args:
        num_byzantine: how many contributions may be wrong, 0 or more.
        num_selected: how many are averaged, 1 or more; 2 or more is multi-Krum.
    """

    num_byzantine: int = 1
    num_selected: int = 1
    name: ClassVar[str] = "krum"

    def __post_init__(self) -> None:
        check_count("Krum(num_byzantine=...)", self.num_byzantine, 0)
        check_count("Krum(num_selected=...)", self.num_selected, 1)

    @property
    def min_nodes(self) -> int:
        return max(2 * self.num_byzantine + 3, self.num_byzantine + 2 + self.num_selected)

    def fold(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
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
