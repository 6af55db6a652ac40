"""The selector of named nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_kinds, some_of
from fedjob.common.errors import SpecError
from fedjob.researcher.selection.base import Candidates, Selector


@dataclass(frozen=True, slots=True)
class Explicit(Selector):
    """The named nodes, every round."""

    nodes: tuple[str, ...] = ()
    name: ClassVar[str] = "explicit"

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise SpecError("Explicit(...) takes at least one node")

    def select(self, candidates: Candidates) -> Sequence[str]:
        missing = sorted(set(self.nodes) - set(candidates.nodes))
        if missing:
            raise SpecError(f"Explicit names {some_of(missing)}, but the job has {some_of(candidates.nodes)}")
        return sorted(self.nodes)
