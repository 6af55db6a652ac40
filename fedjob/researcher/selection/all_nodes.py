"""The selector of every node in every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class AllNodes(Selector):
    """Every node, every round."""

    name: ClassVar[str] = "all"

    def select(self, candidates: Candidates) -> Sequence[str]:
        return candidates.nodes
