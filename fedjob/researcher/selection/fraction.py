"""The selector of a random fraction of the nodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.common.seeds import seed_for
from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class Fraction(Selector):
    """A random fraction of the nodes, drawn anew each round from the job's seed.

    Args:
        fraction: above 0, at most 1; times the number of nodes, it is rounded to a whole number, at least 1.
    """

    fraction: float = 1.0
    name: ClassVar[str] = "fraction"

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 0 < self.fraction <= 1:
            raise SpecError(f"Fraction(...) takes a share above 0 and at most 1, not {shown(self.fraction)}")

    def select(self, candidates: Candidates) -> Sequence[str]:
        count = max(1, round(self.fraction * len(candidates.nodes)))
        drawn = random.Random(seed_for(candidates.seed, candidates.round, "", "select"))
        return sorted(drawn.sample(candidates.nodes, count))
