"""The functional form of a training step: a loss of parameters that are given from outside, and batches as one tree.

`torch.func` computes with it at many parameters at once (`stacked.py`), or the gradients of many records at the same
parameters (`private/record_gradients.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call

Loss = Callable[[torch.nn.Module, Any], torch.Tensor]
"""The loss of a batch, a scalar."""


class LossStep(torch.nn.Module):
    """A training step as a module, so that its parameters can be given from outside."""

    def __init__(self, model: torch.nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Any) -> torch.Tensor:
        return self._loss(self.model, batch)

    def at(self, values: Mapping[str, torch.Tensor], batch: Any) -> torch.Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            values: name in the model -> parameter or buffer; the model's own for those that are not there.
        """
        given = {f"model.{name}": tensor for name, tensor in values.items()}
        found: torch.Tensor = functional_call(self, given, (batch,))
        return found.reshape(())


@contextmanager
def without_advice() -> Iterator[None]:
    """Leave out torch's advice about operations that it vectorises one by one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def stacked(part: list[Any]) -> Any:
    """Return batches as one tree of tensors with a new first dimension; None where that can't be."""
    first = part[0]
    if isinstance(first, torch.Tensor):
        same = all(
            isinstance(other, torch.Tensor) and other.shape == first.shape and other.dtype == first.dtype
            for other in part
        )
        return torch.stack(part) if same and first.layout == torch.strided else None
    if type(first) in (tuple, list):
        if not first or any(type(other) is not type(first) or len(other) != len(first) for other in part):
            return None
        items = [stacked([other[place] for other in part]) for place in range(len(first))]
        return None if any(item is None for item in items) else type(first)(items)
    if type(first) is dict:
        if not first or any(type(other) is not dict or other.keys() != first.keys() for other in part):
            return None
        named = {key: stacked([other[key] for other in part]) for key in first}
        return None if any(item is None for item in named.values()) else named
    return None
