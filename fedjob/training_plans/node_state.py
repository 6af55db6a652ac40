"""The state that a node keeps between rounds, as a tree that can be written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedjob.common.errors import PlanError


def copy_tree(value: Any, where: str) -> Any:
    """Return a copy made of plain data and CPU tensors, sharing nothing with `value`.

    Tuples become lists, and numpy's numbers Python's.

    Raises:
        PlanError: something in it can't be kept; named by its place.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, torch.Tensor):
        # one clone is enough where the copy to the CPU is one already
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        copied = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise PlanError(f"{where} has the key {key!r}; what is kept between rounds has string keys")
            copied[key] = copy_tree(item, f"{where}[{key!r}]")
        return copied
    if isinstance(value, (list, tuple)):
        return [copy_tree(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    advice = "; torch.from_numpy makes a tensor of it" if isinstance(value, np.ndarray) else ""
    raise PlanError(
        f"{where} is a {type(value).__name__}; kept between rounds are numbers, strings, bytes, None, "
        f"tensors, and lists and dictionaries of them{advice}"
    )


def optimizer_tree(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer remembers of each parameter, by the parameter's number.

    Learning rates and the like are left out: they come from the training
    arguments of each round, so that a schedule takes effect.
    """
    states = optimizer.state_dict()["state"]
    return {
        str(number): copy_tree({str(key): item for key, item in state.items()}, f"optimizer state {number}")
        for number, state in states.items()
        if state
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tree: Mapping[str, Any]) -> None:
    """Give a fresh optimizer the memory of an earlier one.

    Raises:
        ValueError: it was made for other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {}
    for key, state in tree.items():
        number = int(key)
        if number >= len(parameters):
            raise ValueError(f"it remembers parameter {number}, but there are {len(parameters)}")
        copied = copy_tree(state, f"optimizer state {number}")
        shape = tuple(parameters[number].shape)
        for name in ("momentum_buffer", "exp_avg"):
            if isinstance(copied.get(name), torch.Tensor) and tuple(copied[name].shape) != shape:
                raise ValueError(
                    f"{name} of parameter {number} has the shape {list(copied[name].shape)}, "
                    f"the parameter {list(shape)}"
                )
        states[number] = copied
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
