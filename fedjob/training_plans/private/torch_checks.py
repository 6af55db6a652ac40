"""The checks of a torch model and its optimizer before a private training, and of the model's tensors meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedjob.common.errors import NotPrivate
from fedjob.training_plans.private.unchanged import STEP


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


class HeldTensors:
    """A copy of a model's parameters and buffers, which nothing but an optimizer may change.

    Args:
        who: what must not change them, for messages.
    """

    def __init__(self, model: torch.nn.Module, who: str = STEP) -> None:
        self._model, self._who = model, who
        self._held = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def check(self) -> None:
        """Refuse that anything was changed.

        Raises:
            NotPrivate: it names what.
        """
        now = self._tensors()
        for name, held in self._held.items():
            if name not in now or not _same(now[name], held):
                raise NotPrivate(
                    f"{self._who} changes {name} of the model, which would carry what a record says past the noise: "
                    "leave parameters to the optimizer, and use no layer whose buffers learn from data"
                )
        if new := sorted(now.keys() - self._held.keys()):
            raise NotPrivate(f"{self._who} gives the model {new[0]}, which it did not have before")

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
