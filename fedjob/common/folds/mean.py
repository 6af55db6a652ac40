"""The weighted mean: what FedAvg folds with.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", algorithm 1, https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.folds.base import Fold

if TYPE_CHECKING:
    import torch

    from fedjob.common.contribution import Contribution

_CHUNK = 1 << 18
"""Elements folded at a time: float64 accumulation within the processor's cache, and in bounded memory."""


@dataclass(frozen=True, slots=True)
class WeightedMean(Fold):
    """`sum(weight_k * value_k) / sum(weight_k)`, weights as the contributions carry them.

    With all weights zero it is the plain mean. Tensors keep their dtype;
    integer tensors are rounded to nearest.
    """

    name: ClassVar[str] = "weighted_mean"

    def fold(self, contributions: Sequence[Contribution]) -> Contribution:
        from fedjob.common.contribution import Contribution, add_phases

        weights = [c.weight for c in contributions]
        total = sum(weights)
        shares = [w / total for w in weights] if total > 0 else [1 / len(weights)] * len(weights)
        value = mean_of([c.value for c in contributions], shares)
        metrics: dict[str, Any] = reduce(add_phases, (c.metrics for c in contributions), {})
        return Contribution(value, total, metrics)


def mean_of(values: Sequence[Any], shares: Sequence[float]) -> Any:
    """Return the weighted mean of named tensors, numbers, or lists and maps of them.

    Args:
        values: of equal structure; None means there is no value.
        shares: sum to 1.
    """
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {name: mean_of([value[name] for value in values], shares) for name in first}
    if isinstance(first, (list, tuple)):
        return [mean_of(column, shares) for column in zip(*values, strict=True)]
    if isinstance(first, (int, float)):
        return sum(share * value for share, value in zip(shares, values, strict=True))
    return _mean_tensor(values, shares)


def _mean_tensor(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    import torch

    result = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    flat_result = result.view(-1)
    flats = [tensor.reshape(-1) for tensor in tensors]
    whole = not result.is_floating_point()
    for start in range(0, flat_result.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        total = flats[0][part].to(torch.float64).mul_(shares[0])
        for flat, share in zip(flats[1:], shares[1:], strict=True):
            # multiplied, then added: a fused step would round differently on other processors
            total.add_(flat[part].to(torch.float64).mul_(share))
        flat_result[part] = total.round_() if whole else total
    return result
