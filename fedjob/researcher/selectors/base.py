"""Who takes part in a round, where the protocol leaves it open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What a selector chooses from, and what it may go by.

    Args:
        round: that is to begin, from 1.
        nodes: sorted.
        seed: the job's.
        num_rows: node -> registered size of its dataset; None where it is not known.
        losses: node -> mean loss of the round's first parameters there, of the nodes
            that `ask_first` named and that answered.
    """

    round: int
    nodes: tuple[str, ...]
    seed: int
    num_rows: Mapping[str, int | None] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)


class Selector(ABC):
    """Chooses the nodes of a round: a frozen dataclass that says the same whenever it is asked the same."""

    name: ClassVar[str]

    asks_losses: ClassVar[bool] = False
    """Whether `ask_first` names nodes: only protocols that train can be asked for losses."""

    @property
    def min_nodes(self) -> int:
        """The least number of nodes that a job needs for the settings to make sense."""
        return 1

    def ask_first(self, candidates: Candidates) -> Sequence[str]:
        """Return the nodes that are asked for the loss of the round's parameters before the choice."""
        return ()

    @abstractmethod
    def select(self, candidates: Candidates) -> Sequence[str]:
        """Return some of the candidates' nodes."""

    def enough(self, selected: Sequence[str]) -> int | None:
        """Return with how many answers of the selected nodes the round goes on; None for all of them."""
        return None
