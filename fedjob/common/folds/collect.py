"""No arithmetic: every node's value, in the order of node ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.folds.base import Fold

if TYPE_CHECKING:
    from fedjob.common.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Collect(Fold):
    """A list of the values, as they came; weights and metrics add."""

    name: ClassVar[str] = "collect"

    def fold(self, contributions: Sequence[Contribution]) -> Contribution:
        from fedjob.common.contribution import Contribution, add_phases

        metrics: dict[str, Any] = reduce(add_phases, (c.metrics for c in contributions), {})
        return Contribution([c.value for c in contributions], sum(c.weight for c in contributions), metrics)
