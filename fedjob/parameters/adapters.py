"""Low-rank adapters among named tensors: pairs of `lora_A` and `lora_B`, as `peft` names them, and their ranks.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section
4.1, https://arxiv.org/abs/2106.09685: a layer adds `scaling * B A x`, with A `[rank, in]` and B `[out, rank]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedjob.common.errors import SpecError

_A, _B = "lora_A", "lora_B"
_BETWEEN = "lora_E"
"""The singular values of AdaLoRA, between B and A."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The names of the two factors of one adapter."""

    a: str
    b: str


def pairs_of(params: Mapping[str, torch.Tensor]) -> tuple[Pair, ...]:
    """Return the adapters of linear layers among some parameters, sorted by name.

    Raises:
        SpecError: one factor is there without the other, they do not fit, or the adapter is more than their product.
    """
    found = []
    for a in sorted(params):
        parts = a.split(".")
        if _A not in parts:
            continue
        b = ".".join(_B if part == _A else part for part in parts)
        if b not in params:
            raise SpecError(f"{a} has no {b} beside it: an adapter has two factors that are trained")
        between = ".".join(_BETWEEN if part == _A else part for part in parts)
        if between in params:
            raise SpecError(
                f"{between} is a third factor beside {a}, as AdaLoRA has it, and ranks are of the product of two: use "
                "FedAvg, or peft's LoraConfig"
            )
        if params[a].ndim != 2 or params[b].ndim != 2 or len(params[a]) != params[b].shape[1]:
            raise SpecError(
                f"{a} is of shape {list(params[a].shape)} and {b} of shape {list(params[b].shape)}: expected "
                "[rank, in] and [out, rank], adapters of linear layers"
            )
        found.append(Pair(a, b))
    return tuple(found)


def add_something(params: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether any adapter among some parameters adds to its layer, as one that was trained before: fresh ones add nothing."""
    return any(bool(params[pair.b].any()) for pair in pairs_of(params))


def rank_of(params: Mapping[str, torch.Tensor], pair: Pair) -> int:
    """Return the rank of an adapter."""
    return int(params[pair.a].shape[0])


def first_ranks(params: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Return parameters with each adapter cut to its first components, `rank` of them at most."""
    cut = dict(params)
    for pair in pairs_of(params):
        cut[pair.a], cut[pair.b] = params[pair.a][:rank].contiguous(), params[pair.b][:, :rank].contiguous()
    return cut


def stacked(
    factors: Sequence[tuple[torch.Tensor, torch.Tensor]], shares: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the adapter whose product is the weighted sum of the products of others, exactly, of the sum of their ranks.

    Args:
        factors: (A, B) of each, A `[rank_k, in]`, B `[out, rank_k]`.
    """
    a = torch.cat([a for a, _ in factors])
    scaled = [(b.double() * share).to(b.dtype) for (_, b), share in zip(factors, shares, strict=True)]
    return a.contiguous(), torch.cat(scaled, dim=1).contiguous()


def truncated(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best adapter of a rank, in the Frobenius norm, for the product of a larger one; the largest part first.

    By the singular value decomposition of `B A`, from the QR decompositions of the factors, so that the product is
    never formed (Eckart and Young 1936).

    Returns:
        A `[r, in]` with orthonormal rows and B `[out, r]`, r the smallest of `rank`, the rank that there is, in and out.
    """
    left, upper = torch.linalg.qr(b.double())
    right, lower = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    u, v = left @ u[:, :rank], (right @ v[:rank].T).T
    # a singular vector has no sign of its own: the largest number of each is made positive
    places = u.abs().argmax(dim=0)
    signs = torch.where(u.gather(0, places[None])[0] < 0, -1.0, 1.0)
    new_a, new_b = v * signs[:, None], u * signs * values[:rank]
    return new_a.to(a.dtype).contiguous(), new_b.to(b.dtype).contiguous()


def set_ranks(model: torch.nn.Module, params: Mapping[str, torch.Tensor]) -> None:
    """Give a model's adapters the ranks of other parameters, with new tensors in the place of those of another rank."""
    factors = [name for name in params if _A in name or _B in name]
    own = dict(model.named_parameters()) if factors else {}
    for name in factors:
        wanted, parameter, parts = params[name], own.get(name), name.split(".")
        place = 0 if _A in parts else 1 if _B in parts else None
        if parameter is None or place is None or parameter.shape == wanted.shape:
            continue
        if parameter.ndim != 2 or wanted.ndim != 2 or parameter.shape[1 - place] != wanted.shape[1 - place]:
            continue  # it does not fit, which is said where parameters are set
        parameter.grad = None
        parameter.data = torch.empty(wanted.shape, dtype=parameter.dtype, device=parameter.device)
