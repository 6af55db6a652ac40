"""The check that no number of named tensors is NaN or infinite, with few calls of torch where tensors are small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from fedjob.parameters.files import FileParams

CHUNK = 1 << 15
"""Numbers at a time: torch does not divide so few over its threads, which on a busy machine wait for each other, and in a
simulation the workers have the cores."""

MOST_TOGETHER = 1 << 20
"""Numbers of a file that are read and looked through as one at most."""

SMALL = 1 << 12
"""Numbers up to which a tensor is looked through together with others: more cost less than their copy. Of a file it is
their mean that counts: whoever adds its tensors up maps each of them, too."""


def first_not_finite(params: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first floating-point tensor that holds NaN or infinity; None where none does.

    Args:
        params: on any device, of any dtypes; numbers that are whole or complex are not looked at.
    """
    if all(_is_finite(tensor) for tensor in _few(params)):
        return None
    return next((name for name in params if not _is_finite(params[name].detach())), None)


def _few(params: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield all numbers of named tensors in tensors that are as few as can be had cheaply."""
    if isinstance(params, FileParams):
        whole = params.as_one(min(MOST_TOGETHER, SMALL * len(params)))
        yield from params.values() if whole is None else (whole,)
        return
    small: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in params.values():
        if tensor.device.type == "cpu" and tensor.numel() <= SMALL:
            small.setdefault(tensor.dtype, []).append(tensor.detach().reshape(-1))
        else:
            yield tensor.detach()
    yield from map(torch.cat, small.values())


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no number of a tensor is NaN or infinite, if it holds floating-point numbers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
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
