"""The selector of nodes with the largest losses among some drawn ones (power of choice).

Cho, Wang, Joshi 2020, "Client Selection in Federated Learning: Convergence
Analysis and Power-of-Choice Selection Strategies", algorithm 1 (pow-d),
https://arxiv.org/abs/2010.01243

    A = num_candidates nodes, drawn by the size of their data
    every node of A reports the mean loss of the round's initial parameters on its data
    the num_nodes of A with the largest losses take part

The losses are revealed to the researcher, as those of training are anyway. It converges
faster, to a solution that is biased towards the nodes with large losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_count, check_kinds
from fedjob.researcher.selection.base import Candidates, Selector
from fedjob.researcher.selection.by_weight import drawn_by_weight


@dataclass(frozen=True, slots=True)
class PowerOfChoice(Selector):
    """The nodes with the largest losses among some that are drawn by the size of their data.

    Args:
        num_nodes: number of nodes that take part in a round, 1 or more.
        num_candidates: number of nodes that are first asked for their losses, `num_nodes` or more.
    """

    num_nodes: int = 1
    num_candidates: int = 2
    name: ClassVar[str] = "power_of_choice"
    asks_losses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("PowerOfChoice(num_nodes=...)", self.num_nodes)
        check_count("PowerOfChoice(num_candidates=...)", self.num_candidates, self.num_nodes)

    @property
    def min_nodes(self) -> int:
        return self.num_candidates

    def ask_first(self, candidates: Candidates) -> Sequence[str]:
        return drawn_by_weight(candidates, self.num_candidates)

    def select(self, candidates: Candidates) -> Sequence[str]:
        worst_first = sorted(candidates.losses, key=lambda node: (-candidates.losses[node], node))
        return sorted(worst_first[: self.num_nodes])
