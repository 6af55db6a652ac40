"""The exact mean of low-rank adapters, whose ranks may differ: their factors are stacked, all else is averaged.

Wang, Shen, He, Sun, Wang, Lyu, Li 2024, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
Low-Rank Adaptations", equations 5 and 6, https://arxiv.org/abs/2409.05976

    A = [A_1; ...; A_K]    B = [p_1 B_1, ..., p_K B_K]    so that    B A = sum_k p_k B_k A_k

The mean of the A_k times the mean of the B_k is another matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.mean import mean_of, shares_of

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class StackedAdapters(Aggregator):
    """The weighted mean of all tensors but adapters, whose products are averaged: the total has the sum of their ranks."""

    name: ClassVar[str] = "stacked_adapters"

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        from fedjob.parameters.adapters import pairs_of, stacked

        values, shares = [c.value for c in contributions], shares_of(contributions)
        if not isinstance(values[0], Mapping):
            return totalled(mean_of(values, shares), contributions)
        pairs = pairs_of(values[0])
        names = {name for pair in pairs for name in (pair.a, pair.b)}
        rest = [{name: value[name] for name in value if name not in names} for value in values]
        total = mean_of(rest, shares)
        for pair in pairs:
            total[pair.a], total[pair.b] = stacked(
                [(value[pair.a], value[pair.b]) for value in values], shares
            )
        return totalled(total, contributions)
