"""Who takes part in a round, where the protocol leaves it open.

A selector is a frozen dataclass with `select(round_, nodes, seed)`, or any
function `(round, nodes) -> nodes` of the researcher's.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.errors import SpecError
from fedjob.common.registry import Registry
from fedjob.common.seeds import seed_for


class Selector(ABC):
    """Chooses the nodes of a round."""

    name: ClassVar[str]

    @abstractmethod
    def select(self, round_: int, nodes: Sequence[str], seed: int) -> Sequence[str]:
        """Return some of `nodes` (sorted) for a round; the same every time it is asked."""


@dataclass(frozen=True, slots=True)
class AllNodes(Selector):
    """Every node, every round."""

    name: ClassVar[str] = "all"

    def select(self, round_: int, nodes: Sequence[str], seed: int) -> Sequence[str]:
        return nodes


@dataclass(frozen=True, slots=True)
class Fraction(Selector):
    """A random share of the nodes, drawn anew each round from the job's seed.

    Args:
        fraction: above 0, at most 1; rounded to the nearest whole number of nodes, at least one.
    """

    fraction: float = 1.0
    name: ClassVar[str] = "fraction"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SpecError(f"Fraction(...) takes a share above 0 and at most 1, not {self.fraction!r}")

    def select(self, round_: int, nodes: Sequence[str], seed: int) -> Sequence[str]:
        count = max(1, round(self.fraction * len(nodes)))
        return sorted(random.Random(seed_for(seed, round_, "", "select")).sample(list(nodes), count))


@dataclass(frozen=True, slots=True)
class Explicit(Selector):
    """The named nodes, every round."""

    nodes: tuple[str, ...] = ()
    name: ClassVar[str] = "explicit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise SpecError("Explicit(...) takes at least one node")

    def select(self, round_: int, nodes: Sequence[str], seed: int) -> Sequence[str]:
        missing = sorted(set(self.nodes) - set(nodes))
        if missing:
            raise SpecError(f"Explicit names {', '.join(missing)}, but the job has {', '.join(nodes)}")
        return sorted(self.nodes)


SELECTORS: Registry[Selector] = Registry(
    "selector",
    {
        "all": "fedjob.researcher.selection:AllNodes",
        "fraction": "fedjob.researcher.selection:Fraction",
        "explicit": "fedjob.researcher.selection:Explicit",
    },
)
