"""The memory that a plan's own optimizer takes, from steps on a small copy of its model.

The copy has parameters of as many dimensions, each of another small size, so that every tensor which the optimizer makes shows by
its shape how it grows with the sizes of the model. Nothing of the model's size is computed or held.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedjob.common.errors import SpecError
from fedjob.common.seeds import seed_for
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.plan_checks import overrides
from fedjob.training_plans.randomness import seeded
from fedjob.training_plans.torch import TorchPlan

_SIZES = (3, 5, 7, 11, 13, 17, 19, 23)
"""Sizes of the dimensions of the copy: primes, so that a product tells its factors."""
_LBFGS_VECTORS = 4
"""Vectors of all parameters that L-BFGS holds beside its history: a direction, two gradients, and where it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """The bytes that an optimizer holds.

    Args:
        state: that it remembers from step to step.
        step: the most that a step holds beside that, for a while.
    """

    state: int = 0
    step: int = 0


def optimizer_memory(plan: TrainingPlan) -> OptimizerMemory | None:
    """Return the memory of a built plan's optimizer; None where it can't be known before it trains.

    The plan and its model stay as they are. Of L-BFGS it is the most: that of its whole history.
    """
    if not isinstance(plan, TorchPlan) or not any(p.requires_grad for p in plan.model.parameters()):
        return OptimizerMemory()
    if not overrides(plan, TorchPlan, "init_optimizer"):
        return None
    for sparse in (False, True):  # SparseAdam takes no others
        try:
            return _memory_of(plan, sparse=sparse)
        except (Exception, SystemExit):  # it is a plan's own code, which may want anything of the model
            continue
    return None


def _memory_of(plan: TorchPlan, *, sparse: bool) -> OptimizerMemory:
    small = _SmallModel()
    twin = copy.copy(plan)
    twin.model = small.of(plan.model)
    with seeded(seed_for(plan.ctx.job_seed, 0, "", "optimizer")):
        optimizer = twin.init_optimizer(twin.model, plan.training_args.for_user())
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not all(id(parameter) in small.sizes for parameter in trained):
        raise SpecError("the optimizer trains tensors that are no parameters of the model")
    if isinstance(optimizer, torch.optim.LBFGS):
        whole = sum(_grown(parameter, small.sizes[id(parameter)]) for parameter in trained)
        history = int(optimizer.param_groups[0]["history_size"])
        return OptimizerMemory(state=(2 * history + _LBFGS_VECTORS) * whole, step=whole)
    most = 0
    for parameter in trained:
        if not parameter.requires_grad:
            continue
        gradient = torch.ones_like(parameter)
        parameter.grad = gradient.to_sparse(1) if sparse else gradient
        optimizer.step()  # which makes its state
        with _Working(small.sizes[id(parameter)]) as working:
            optimizer.step()
        most = max(most, working.most)
        parameter.grad = None
    held = 0
    for of, state in optimizer.state.items():
        held += sum(_grown(tensor, small.sizes.get(id(of), {})) for tensor in _tensors(state))
    return OptimizerMemory(state=held, step=most)


class _SmallModel:
    """A copy of a model with small parameters; parameters that two modules share are one in the copy, too.

    Args:
        sizes: id of a small parameter -> each size of it, and of what is flattened of it -> the size in the model.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, Mapping[int, int]] = {}
        self._parameters: dict[int, torch.nn.Parameter] = {}
        self._modules: dict[int, torch.nn.Module] = {}

    def of(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the copy of a module."""
        if (known := self._modules.get(id(module))) is not None:
            return known
        self._modules[id(module)] = twin = copy.copy(module)
        vars(twin)["_parameters"] = {
            name: None if one is None else self._parameter(one) for name, one in module._parameters.items()
        }
        vars(twin)["_modules"] = {
            name: None if one is None else self.of(one) for name, one in module._modules.items()
        }
        return twin

    def _parameter(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        if (known := self._parameters.get(id(parameter))) is not None:
            return known
        shape = tuple(
            _SIZES[place] if size > 1 else size for place, size in enumerate(parameter.shape[: len(_SIZES)])
        )
        shape += tuple(parameter.shape[len(_SIZES) :])
        made = torch.nn.Parameter(
            torch.ones(shape, dtype=parameter.dtype), requires_grad=parameter.requires_grad
        )
        self._parameters[id(parameter)] = made
        self.sizes[id(made)] = {
            math.prod(shape[start:end]): math.prod(parameter.shape[start:end])
            for start in range(len(shape))
            for end in range(start + 1, len(shape) + 1)
        }
        return made


class _Working(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of tensors that are made in a step and not there after it."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._sizes, self._now = sizes, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {id(tensor) for tensor in _tensors([args, kwargs])}
        for tensor in _tensors(found):
            if id(tensor) in given or tensor._is_view():  # in place, or a part of another one
                continue
            size = _grown(tensor, self._sizes)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(tensor, self._gone, size)
        return found

    def _gone(self, size: int) -> None:
        self._now -= size


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a tree."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _grown(tensor: torch.Tensor, sizes: Mapping[int, int]) -> int:
    """Return the bytes that a tensor of the small copy would have in the model."""
    if tensor.is_sparse:
        return _grown(tensor._values(), sizes) + _grown(tensor._indices(), sizes)
    return math.prod(sizes.get(size, size) for size in tensor.shape) * tensor.element_size()
