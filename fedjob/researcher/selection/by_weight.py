"""The selector of nodes drawn with probability proportional to the size of their data.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in
Heterogeneous Networks", algorithm 1, https://arxiv.org/abs/1812.06127: nodes are
drawn with probabilities p_k = n_k / n, here without putting them back, by the
keys of Efraimidis and Spirakis 2006, "Weighted random sampling with a
reservoir", algorithm A, https://doi.org/10.1016/j.ipl.2005.11.003

    key_k = u_k ^ (1 / n_k),  u_k uniform in (0, 1);  the nodes with the largest keys take part
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_count, check_kinds
from fedjob.common.errors import SpecError
from fedjob.common.seeds import seed_for
from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class ByWeight(Selector):
    """A number of nodes each round; nodes with more rows are drawn more often.

    The draw already favours large datasets: aggregate with `PlainMean` if drawn nodes should count equally.

    Args:
        num_nodes: number of nodes that take part in a round, 1 or more.
    """

    num_nodes: int = 1
    name: ClassVar[str] = "by_weight"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("ByWeight(num_nodes=...)", self.num_nodes)

    @property
    def min_nodes(self) -> int:
        return self.num_nodes

    def select(self, candidates: Candidates) -> Sequence[str]:
        return drawn_by_weight(candidates, self.num_nodes)


def drawn_by_weight(candidates: Candidates, count: int) -> list[str]:
    """Draw `count` of the candidates by the number of their rows; return all if there are no more than that.

    Raises:
        SpecError: the number of rows of a node is not known.
    """
    unknown = [node for node in candidates.nodes if not candidates.num_rows.get(node)]
    if unknown:
        raise SpecError(
            f"nodes are drawn by the number of their rows, which is not known of {', '.join(unknown)}: "
            "choose another selector, or have the node count its data"
        )
    drawn = random.Random(seed_for(candidates.seed, candidates.round, "", "select"))
    # the logarithm has the same order as the key, and does not round to 1 for large datasets
    keys = {
        node: math.log(1.0 - drawn.random()) / (candidates.num_rows[node] or 1) for node in candidates.nodes
    }
    return sorted(sorted(candidates.nodes, key=lambda node: -keys[node])[:count])
