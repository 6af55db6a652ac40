"""The plain mean: every node counts alike, whatever the number of its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.folds.base import Fold, Origin, totalled
from fedjob.common.folds.mean import mean_of

if TYPE_CHECKING:
    from fedjob.common.contribution import Contribution


@dataclass(frozen=True, slots=True)
class PlainMean(Fold):
    """`sum(value_k) / number of nodes`; the weights still add."""

    name: ClassVar[str] = "plain_mean"

    def fold(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        shares = [1 / len(contributions)] * len(contributions)
        return totalled(mean_of([c.value for c in contributions], shares), contributions)
