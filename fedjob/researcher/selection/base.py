"""The interface of selectors, which choose the cohort of a round where the protocol leaves it open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The nodes that a selector chooses from, and the facts that it may choose by.

    Args:
        round: number of the round to begin, from 1.
        nodes: the job's nodes, sorted.
        seed: of the job.
        num_rows: node -> registered size of its dataset; None where it is not known.
        losses: node -> mean loss of the round's initial parameters on its data, for the nodes
            that `ask_first` named and that answered.
    """

    round: int
    nodes: Sequence[str]
    seed: int
    num_rows: Mapping[str, int | None] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)


class Selector(ABC):
    """A rule that chooses the nodes of a round: a frozen dataclass that uses the candidates only."""

    name: ClassVar[str]

    asks_losses: ClassVar[bool] = False
    """True if `ask_first` returns nodes, which only a protocol that trains can ask for losses."""

    @property
    def min_nodes(self) -> int:
        """The least number of nodes that a job needs for these settings."""
        return 1

    def ask_first(self, candidates: Candidates) -> Sequence[str]:
        """Return the nodes to ask for the loss of the round's initial parameters before `select`."""
        return ()

    @abstractmethod
    def select(self, candidates: Candidates) -> Sequence[str]:
        """Return the nodes that take part in the round, a subset of `candidates.nodes`."""

    def enough(self, selected: Sequence[str]) -> int | None:
        """Return the number of replies of `selected` that the round needs to go on; None for all."""
        return None
