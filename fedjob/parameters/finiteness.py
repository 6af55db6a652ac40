"""The check that no number of named tensors is NaN or infinite, with few calls of torch where tensors are small."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from fedjob.parameters.files import FileParams

CHUNK = 1 << 15
"""Numbers at a time: torch does not divide so few over its threads, which on a busy machine wait for each other, and in a
simulation the workers have the cores."""

MOST_TOGETHER = 1 << 20
"""Numbers of small tensors that are looked through as one: each tensor by itself costs more than its numbers."""


def first_not_finite(params: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first floating-point tensor that holds NaN or infinity; None where none does.

    Args:
        params: on any device, of any dtypes; numbers that are whole or complex are not looked at.
    """
    whole = _as_one(params)
    if whole is not None and (not whole.is_floating_point() or _is_finite(whole)):
        return None
    for name in params:
        tensor = params[name]
        if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor.detach()):
            return name
    return None


def _as_one(params: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Return the numbers of small tensors as one tensor of one axis; None where they are many, or of several dtypes.

    Of tensors in memory the floating-point ones alone.
    """
    if isinstance(params, FileParams):
        return params.as_one(MOST_TOGETHER)
    tensors = [tensor for tensor in params.values() if tensor.is_floating_point()]
    if len({(tensor.dtype, tensor.device.type) for tensor in tensors}) != 1:
        return None
    if tensors[0].device.type != "cpu" or sum(tensor.numel() for tensor in tensors) > MOST_TOGETHER:
        return None
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no number of a floating-point tensor is NaN or infinite."""
    if tensor.device.type != "cpu":
        return _has_finite_ends(tensor)
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        # a finite sum has finite terms; finite terms may have a sum that is not
        if not math.isfinite(part.sum().item()) and not _has_finite_ends(part):
            return False
    return True


def _has_finite_ends(tensor: torch.Tensor) -> bool:
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())
