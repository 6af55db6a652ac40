"""The plain sum of contributions, for statistics that add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class Sum(Aggregator):
    """`sum(value_k)`, in the order of node ids."""

    name: ClassVar[str] = "sum"
    elementwise: ClassVar[bool] = True

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return reduce(lambda a, b: a + b, contributions)
