"""The means of contributions: weighted, the aggregator of FedAvg; plain; and buffered, that of FedBuff.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", algorithm 1, https://arxiv.org/abs/1602.05629

`BufferedMean`: the mean of a buffer of contributions in which older ones count less: the aggregator of FedBuff.

Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation",
algorithm 1 and section 5.1, https://arxiv.org/abs/2106.06639
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.aggregation.elementwise import CHUNK, aggregate_leaves, like_leaf, tensors_of
from fedjob.common.checks import check_kinds, check_not_negative

if TYPE_CHECKING:
    import torch

    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class WeightedMean(Aggregator):
    """`sum(weight_k * value_k) / sum(weight_k)`, with the weights that the contributions carry.

    With all weights zero it is the plain mean. Tensors keep their dtype;
    integer tensors are rounded to nearest.
    """

    name: ClassVar[str] = "weighted_mean"
    elementwise: ClassVar[bool] = True

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return totalled(mean_of([c.value for c in contributions], shares_of(contributions)), contributions)


def shares_of(contributions: Sequence[Contribution]) -> list[float]:
    """Return each contribution's share of the weight; equal ones where all weights are zero."""
    weights = [c.weight for c in contributions]
    total = sum(weights)
    return [w / total for w in weights] if total > 0 else [1 / len(weights)] * len(weights)


def mean_of(values: Sequence[Any], shares: Sequence[float]) -> Any:
    """Return the weighted mean of named tensors, numbers, or lists and maps of them.

    Args:
        values: of equal structure; None means there is no value.
        shares: sum to 1.
    """
    return aggregate_leaves(values, lambda leaves: _mean(leaves, shares))


def _mean(leaves: Sequence[Any], shares: Sequence[float]) -> Any:
    if all(isinstance(leaf, (int, float)) for leaf in leaves):
        return sum(share * leaf for share, leaf in zip(shares, leaves, strict=True))
    return like_leaf(_mean_tensor(tensors_of(leaves), shares), leaves[0])


def _mean_tensor(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    import torch

    result = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    flat_result = result.view(-1)
    flats = [tensor.reshape(-1) for tensor in tensors]
    whole = not result.is_floating_point()
    # contributions are multiplied in a room of their own, because they must stay as they are
    sums = torch.empty(min(CHUNK, flat_result.numel()), dtype=torch.float64)
    products = torch.empty_like(sums)
    for start in range(0, flat_result.numel(), CHUNK):
        part = slice(start, min(start + CHUNK, flat_result.numel()))
        total, product = sums[: part.stop - start], products[: part.stop - start]
        total.copy_(flats[0][part]).mul_(shares[0])
        for flat, share in zip(flats[1:], shares[1:], strict=True):
            # multiplied, then added: a fused step would round differently on other processors
            total.add_(product.copy_(flat[part]).mul_(share))
        flat_result[part] = total.round_() if whole else total
    return result


@dataclass(frozen=True, slots=True)
class BufferedMean(Aggregator):
    """`sum(s_k * value_k) / number of contributions`, with `s_k = 1 / (1 + staleness_k)^exponent`.

    Args:
        exponent: 0 or more; with 0, old contributions count as much as new ones.
        weighted: use the contributions' weights: `sum(weight_k * s_k * value_k) / sum(weight_k)`.
    """

    exponent: float = 0.5
    weighted: bool = False

    name: ClassVar[str] = "buffered_mean"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check_not_negative("BufferedMean(exponent=...)", self.exponent)

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        shares = self.shares([c.weight for c in contributions], [c.staleness for c in contributions])
        return totalled(mean_of([c.value for c in contributions], shares), contributions)

    def shares(self, weights: Sequence[float], staleness: Sequence[int]) -> list[float]:
        """Return the factor of each contribution; the factors sum to 1 where none is stale, else to less."""
        whole = float(sum(weights)) if self.weighted else 0.0
        shares = [weight / whole if whole > 0 else 1 / len(weights) for weight in weights]
        return [
            share * float((1 + rounds) ** -self.exponent)
            for share, rounds in zip(shares, staleness, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PlainMean(Aggregator):
    """`sum(value_k) / number of nodes`; the weights still add."""

    name: ClassVar[str] = "plain_mean"
    elementwise: ClassVar[bool] = True

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        shares = [1 / len(contributions)] * len(contributions)
        return totalled(mean_of([c.value for c in contributions], shares), contributions)
