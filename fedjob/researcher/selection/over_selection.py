"""The selector of more nodes than a round needs, so that it need not wait for the slow ones.

Bonawitz, Eichner, Grieskamp et al. 2019, "Towards Federated Learning at Scale:
System Design", section 2.2, https://arxiv.org/abs/1902.01046: a round selects
130 % of the nodes that it needs, goes on as soon as enough have replied, and
ignores the others. `Quorum(deadline_s=...)` sets how long it waits at most,
`Quorum(min_nodes=...)` how many replies are enough then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_count, check_kinds, check_not_negative
from fedjob.common.seeds import seed_for
from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class OverSelection(Selector):
    """A number of nodes and some extra ones, drawn anew each round; the first replies count.

    The first nodes depend on their speed, so two runs may differ; the nodes that
    counted are recorded.

    Args:
        num_nodes: number of replies with which a round goes on, 1 or more.
        extra_fraction: nodes selected beyond `num_nodes`, as a fraction of it, 0 or more; rounded up.
    """

    num_nodes: int = 1
    extra_fraction: float = 0.3
    name: ClassVar[str] = "over_selection"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("OverSelection(num_nodes=...)", self.num_nodes)
        check_not_negative("OverSelection(extra_fraction=...)", self.extra_fraction)

    @property
    def min_nodes(self) -> int:
        return self.num_nodes

    def select(self, candidates: Candidates) -> Sequence[str]:
        wanted = math.ceil(self.num_nodes * (1 + self.extra_fraction) - 1e-9)
        drawn = random.Random(seed_for(candidates.seed, candidates.round, "", "select"))
        return sorted(drawn.sample(candidates.nodes, min(wanted, len(candidates.nodes))))

    def enough(self, selected: Sequence[str]) -> int | None:
        return min(self.num_nodes, len(selected))
