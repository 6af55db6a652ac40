"""The checks of a torch model, its optimizer and its loss before a private training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from fedjob.common.errors import NodeFailure, NotPrivate
from fedjob.training_plans.private.record_gradients import Loss
from fedjob.training_plans.randomness import seeded

Rows = np.ndarray[Any, np.dtype[np.int64]]

MEAN, SUM = "mean", "sum"

_TOLERANCE = 1e-3


def check_model(model: torch.nn.Module) -> None:
    """Refuse a model that mixes the records of a batch, or that learns from them by other ways than gradients.

    Raises:
        NotPrivate: it names the layer, and what to use instead.
    """
    for name, module in model.named_modules():
        where = f"layer {name or 'of the model'} ({type(module).__name__})"
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise NotPrivate(
                f"{where} normalises by the other records of a batch, so that no record's gradient is its own: use "
                "GroupNorm or LayerNorm"
            )
        if isinstance(module, torch.nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise NotPrivate(f"{where} keeps running means of the records: give track_running_stats=False")
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise NotPrivate(
                f"parameter {name} is complex, and noise is for real numbers: hold its two parts"
            )


def trained_parameters(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that an optimizer trains, by their names in the model.

    Raises:
        NotPrivate: there are none, or the optimizer computes gradients of its own.
    """
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NotPrivate(
            f"{kind} computes the loss several times in a step, and each would need noise: use SGD or Adam"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise NotPrivate(f"{kind} takes sparse gradients, and noise is on every number: use Adam")
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) in own
    }
    if not found:
        raise NotPrivate(
            "the optimizer trains no parameter of the model: there is nothing to learn with noise"
        )
    return found


def own_modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the modules of a model whose classes are not torch's, by name: their attributes are the plan's affair."""
    return {
        name: module
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.")
    }


def reduction_of(
    model: torch.nn.Module,
    loss: Loss,
    batch_of: Callable[[Rows], Any],
    rows: Rows,
    seeds: tuple[int, int],
) -> str:
    """Return whether the loss of a batch is the mean or the sum of the losses of its records.

    The model is in evaluation mode meanwhile, so that dropout draws nothing. A loss that is random even then can't be
    compared, and counts as a mean.

    Args:
        batch_of: makes a batch of the records at some rows.
        rows: to look at, one or more; those whose loss is not finite are left out.
        seeds: two different ones.

    Raises:
        NotPrivate: it is neither, so that it depends on what else is in the batch, or there is none for one record.
    """
    was_training = model.training
    model.eval()
    try:
        ones = {int(row): _value_alone(model, loss, batch_of, row, seeds[0]) for row in rows}
        kept = [row for row, value in ones.items() if math.isfinite(value)]
        if not kept:
            return MEAN
        batch = batch_of(np.asarray(kept, dtype=np.int64))
        whole, again = (_value(model, loss, batch, seed) for seed in seeds)
    finally:
        model.train(was_training)
    if whole != again:
        return MEAN
    values = [ones[row] for row in kept]
    total = math.fsum(values)
    slack = _TOLERANCE * (1e-3 + max(map(abs, values)))
    if abs(whole - total / len(values)) <= slack:
        return MEAN
    if abs(whole - total) <= slack * len(values):
        return SUM
    raise NotPrivate(
        f"the loss of {len(values)} records together is neither the mean nor the sum of their losses, so that it depends "
        "on what else is in a batch. Under differential privacy each record counts by itself: take the loss of each, such "
        "as cross_entropy(..., reduction='none'), weigh it by what is known beforehand, and return the .mean()"
    )


def _value_alone(
    model: torch.nn.Module, loss: Loss, batch_of: Callable[[Rows], Any], row: Any, seed: int
) -> float:
    """Return the loss of one record.

    Raises:
        NotPrivate: there is none, though there is one of two records together.
    """
    alone = np.asarray([row], dtype=np.int64)
    try:
        return _value(model, loss, batch_of(alone), seed)
    except NodeFailure:
        raise
    except Exception as error:
        try:
            _value(model, loss, batch_of(np.repeat(alone, 2)), seed)
        except Exception:
            raise error from None
        raise NotPrivate(
            f"training_step raises {type(error).__name__} for a batch of one record, and under differential privacy each "
            "record's gradient is computed alone: for example, write squeeze(1) in place of squeeze()"
        ) from error


def _value(model: torch.nn.Module, loss: Loss, batch: Any, seed: int) -> float:
    with seeded(seed):
        found = loss(model, batch)
    if not found.requires_grad:
        raise NotPrivate("training_step returned a loss that depends on no parameter")
    return float(found.detach())


class HeldTensors:
    """A copy of a model's parameters and buffers, which nothing but an optimizer may change."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._held = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def check(self) -> None:
        """Refuse a step in which anything was changed.

        Raises:
            NotPrivate: it names what.
        """
        now = self._tensors()
        for name, held in self._held.items():
            if name not in now or not _same(now[name], held):
                raise NotPrivate(
                    f"a training step changes {name} of the model, which would carry what a record says past the noise: "
                    "leave parameters to the optimizer, and use no layer whose buffers learn from data"
                )
        if new := sorted(now.keys() - self._held.keys()):
            raise NotPrivate(f"a training step gives the model {new[0]}, which it did not have before")

    def take(self) -> None:
        """Hold what the model holds now."""
        for name, tensor in self._tensors().items():
            self._held[name].copy_(tensor.detach())

    def _tensors(self) -> Mapping[str, torch.Tensor]:
        return dict([*self._model.named_parameters(), *self._model.named_buffers()])


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
