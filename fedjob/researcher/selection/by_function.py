"""A researcher's own function `(round, nodes) -> nodes` as a selector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.errors import SpecError
from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class FunctionSelector(Selector):
    """The nodes that a user's function returns; stored as source text, not under a name of the registry.

    Args:
        called: name of the function, for error messages.
    """

    function: Callable[[int, list[str]], Sequence[str]]
    called: str
    name: ClassVar[str] = "function"

    def select(self, candidates: Candidates) -> Sequence[str]:
        selected = self.function(candidates.round, list(candidates.nodes))
        if isinstance(selected, str) or not all(isinstance(node, str) for node in selected):
            raise SpecError(f"selector {self.called} returned {selected!r}; expected a list of node ids")
        return tuple(selected)
