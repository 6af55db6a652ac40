"""The client state that stays at a node between rounds, as a tree that can be written to a file."""

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
                raise PlanError(
                    f"{where} has the key {key!r}; what is kept between rounds has texts for keys, such as str(key)"
                )
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


def optimizer_tree(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an optimizer remembers of each parameter, by the parameter's name in the model.

    Learning rates and the like are left out: they come from the training
    arguments of each round, so that a schedule takes effect. L-BFGS remembers all its parameters
    as one long vector, under the key of the first; their names stand with it.

    Args:
        earlier: the memory that it began with. What it holds of parameters of the model that the optimizer
            does not train now, such as those of frozen layers, is kept for when it trains them again.

    Raises:
        PlanError: the optimizer trains a tensor that is no parameter of the model.
    """
    named = _named_groups(optimizer, model)
    memory: dict[str, Any] = {}
    if earlier.get(_KIND) == _kind(optimizer) and not _is_joint(optimizer):
        mine = set(named)
        own = {name for name, _ in model.named_parameters()}
        kept = dict(earlier.get(_OF, {}))
        memory = {name: copy_tree(kept[name], name) for name in kept if name in own - mine}
    for name, parameter in named.items():
        state = optimizer.state.get(parameter)
        if state:
            where = f"optimizer state of {name}"
            memory[name] = copy_tree({str(key): item for key, item in state.items()}, where)
    if not memory:
        return {}
    tree = {_KIND: _kind(optimizer), _OF: memory}
    return {**tree, _TOGETHER: list(named)} if _is_joint(optimizer) else tree


def load_optimizer(optimizer: torch.optim.Optimizer, tree: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Give a fresh optimizer the memory of an earlier one, each parameter what was remembered under its name.

    A parameter that nothing is remembered of begins anew, and so does all of an optimizer of another kind than the
    earlier one, or of L-BFGS over other parameters.

    Raises:
        PlanError: the optimizer trains a tensor that is no parameter of the model.
        ValueError: a memory is of a parameter of another shape.
    """
    named = _named_groups(optimizer, model)
    if not tree or tree[_KIND] != _kind(optimizer) or tree.get(_TOGETHER, list(named)) != list(named):
        return
    states = {}
    for number, (name, parameter) in enumerate(named.items()):
        if name not in tree[_OF]:
            continue
        copied = copy_tree(tree[_OF][name], f"optimizer state of {name}")
        for key in _LIKE_THE_PARAMETER:
            held = copied.get(key)
            if isinstance(held, torch.Tensor) and held.shape != parameter.shape:
                raise ValueError(
                    f"{key} of {name} has the shape {list(held.shape)}, the parameter {list(parameter.shape)}"
                )
        states[number] = copied
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


_KIND, _OF, _TOGETHER = "kind", "parameters", "together"
_LIKE_THE_PARAMETER = (
    "momentum_buffer",
    "exp_avg",
    "exp_avg_sq",
    "square_avg",
    "sum",
    "acc_delta",
    "exp_inf",
)


def _kind(optimizer: torch.optim.Optimizer) -> str:
    """Return what an optimizer's memory consists of: its class, and the switches that add a part to it."""
    switches = {
        name
        for group in optimizer.param_groups
        for name in ("amsgrad", "centered", "momentum")
        if group.get(name)
    }
    return " ".join([type(optimizer).__name__, *sorted(switches)])


def _is_joint(optimizer: torch.optim.Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.LBFGS)


def _named_groups(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> dict[str, torch.nn.Parameter | torch.Tensor]:
    """Return the parameters of an optimizer by their names in the model, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    named = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise PlanError(
                    f"init_optimizer: the optimizer trains a tensor of shape {list(parameter.shape)} that is no "
                    "parameter of the model, so it would be lost: make it one, such as self.scale = "
                    "torch.nn.Parameter(...) in the model"
                )
            named[names[id(parameter)]] = parameter
    return named
