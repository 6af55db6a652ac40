"""The trial of a plan before its nodes are trained at once: its step is computed in both ways, and what differs is named."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import grad_and_value, vmap

from fedjob.common.errors import NotPrivate, PlanError
from fedjob.parameters.frozen import why_no_gradient
from fedjob.training_plans.plan_checks import replaced_method
from fedjob.training_plans.private.unchanged import Watch
from fedjob.training_plans.together.loss_step import LossStep, stacked, without_advice
from fedjob.training_plans.together.stacked import ELEMENTWISE, Tensors
from fedjob.training_plans.torch import TorchPlan

TOLERANCE = 1e-3
"""Of gradients, relative to their norm: sums in another order differ by less, another computation by more."""

AS_IT_IS = "leave vectorize=True out, and the nodes are computed by worker processes"

TIMED = 4
"""Nodes whose step is timed together."""

_NORMS = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a training step of one node takes on this machine.

    Attributes:
        device: Type of the device that it was computed on.
        saved_bytes: What the forward pass keeps for the gradients, parameters left aside.
        alone_s: Seconds of one thread for a node by itself.
        together_s: Seconds for each of `TIMED` nodes that are trained at once, with as many threads as torch has.
    """

    device: str = "cpu"
    saved_bytes: int = 0
    alone_s: float = 0.0
    together_s: float = 0.0


class CanNotBeVectorised(PlanError):
    """Nodes of this plan can't be trained at once: why, and what to do."""


def refused(name: str, why: str, instead: str = "") -> CanNotBeVectorised:
    """Return the error of a plan that can't be vectorised.

    Args:
        name: of the plan's class.
        instead: what to use, to have it vectorised; empty where there is nothing.
    """
    advice = f"{instead}, or {AS_IT_IS}" if instead else AS_IT_IS
    return CanNotBeVectorised(
        f"vectorize=True can't train {name} at many nodes at once: {why}. {advice[0].upper()}{advice[1:]}",
        name=name,
    )


def check_kind(plan: object) -> TorchPlan:
    """Return a plan if fedjob drives its training and it is torch's.

    Raises:
        CanNotBeVectorised: it is not.
    """
    name = type(plan).__name__
    if not isinstance(plan, TorchPlan):
        raise refused(
            name,
            "it is no TorchPlan, and torch.func vectorises torch's computations alone",
            "Write a TorchPlan",
        )
    own = replaced_method(type(plan))
    if own is not None:
        raise refused(
            name,
            f"{own} is a loop or a part of its own in the place of fedjob's, which may do anything",
            "Write training_step instead",
        )
    return plan


def check_built(plan: TorchPlan) -> None:
    """Refuse layers and optimizers that can't be vectorised.

    Raises:
        CanNotBeVectorised: it names the layer or the optimizer.
    """
    name = type(plan).__name__
    for place, module in plan.model.named_modules():
        where = f"layer {place or 'of the model'} ({type(module).__name__})"
        if _draws(module):
            raise refused(
                name,
                f"{where} draws random numbers, and every node has a stream of its own",
                "Set its probability to 0",
            )
        if isinstance(module, _NORMS) and module.track_running_stats:
            raise refused(
                name,
                f"{where} keeps running means, which change within a step",
                "Use GroupNorm or LayerNorm, or give it track_running_stats=False",
            )
    plan._check_optimizer()
    kind = type(plan.optimizer)
    if kind not in ELEMENTWISE:
        raise refused(
            name,
            f"its optimizer, {kind.__name__}, is none that is known to work on every number of a parameter by itself",
            f"Use {', '.join(one.__name__ for one in ELEMENTWISE)}",
        )
    own = {id(p) for p in plan.model.parameters()}
    if any(id(p) not in own for group in plan.optimizer.param_groups for p in group["params"]):
        raise refused(name, "its optimizer trains tensors that are no parameters of the model")


def check_loading(plan: TorchPlan, dataset: Any) -> None:
    """Refuse a plan whose `training_data` keeps something, which its step would find for one of many nodes only.

    Args:
        plan: that has not loaded its data yet.

    Raises:
        CanNotBeVectorised: it names what.
    """
    plan._dataset = dataset
    watch = Watch(plan, {})
    try:
        plan.training_data(dataset, plan.training_args.for_user())
    except Exception:  # of this node's data: its round says so
        return
    try:
        watch.check()
    except NotPrivate as error:
        raise refused(
            type(plan).__name__,
            f"training_data changes {_changed_in(error)}, and nodes that are trained at once share one plan",
            "Return it with each example, or set it from model_args",
        ) from error


def _changed_in(error: NotPrivate) -> str:
    """Return the name of what a watch found changed."""
    return str(error).partition(" changes ")[2].partition(":")[0]


def try_step(plan: TorchPlan) -> StepCost:
    """Compute the first training step of a plan with its data in both ways, and leave the plan as it was.

    Returns:
        What it takes; zeros where the node has nothing to train.

    Raises:
        CanNotBeVectorised: the two differ, or a step can't be vectorised.
    """
    name = type(plan).__name__
    plan.model.train()
    size, batch = next(plan._training_batches(), (0, None))
    if not size:
        return StepCost()  # a node without examples says so itself
    trained: Tensors = {n: p for n, p in plan.model.named_parameters() if p.requires_grad}
    if not trained:
        return StepCost()
    if stacked([batch, batch]) is None:
        raise refused(
            name,
            f"its batches are {type(batch).__name__}, and tensors, and tuples, lists and dictionaries of them can be "
            "stacked",
            "Return these from training_data",
        )
    begun = {n: p.detach().clone() for n, p in trained.items()}
    points = [begun, {n: p * 0.9 for n, p in begun.items()}]
    try:
        plain = [_plain(plan, trained, point, batch) for point in points]
    finally:
        with torch.no_grad():
            for n, p in trained.items():
                p.copy_(begun[n])
    _compare(name, plain, _vectorised(plan, name, points, batch))
    return _cost(plan, trained, batch)


def _cost(plan: TorchPlan, trained: Tensors, batch: Any) -> StepCost:
    """Return what a step takes in both ways; no number of the plan's changes."""
    held = {p.untyped_storage().data_ptr() for p in plan.model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def alone() -> None:
        loss = plan._loss_of(plan.model, batch)
        torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alone()
    step = LossStep(plan.model, plan._loss_of)
    values = {n: torch.stack([p.detach()] * TIMED) for n, p in trained.items()}
    batches = stacked([batch] * TIMED)

    def together() -> None:
        with without_advice():
            vmap(grad_and_value(step.at), randomness="error")(values, batches)

    threads = torch.get_num_threads()
    together_s = _seconds(together) / TIMED
    torch.set_num_threads(1)
    try:
        alone_s = _seconds(alone)
    finally:
        torch.set_num_threads(threads)
    return StepCost(plan.device.type, sum(saved.values()), alone_s, together_s)


def _seconds(compute: Callable[[], None]) -> float:
    """Return the seconds of the quicker of two computations, after one that makes everything warm."""
    compute()
    found = []
    for _ in range(2):
        began = time.perf_counter()
        compute()
        found.append(time.perf_counter() - began)
    return min(found)


def _plain(
    plan: TorchPlan, trained: Tensors, point: Tensors, batch: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Return the loss and the gradients at some parameters, as they are computed for a node by itself."""
    name = type(plan).__name__
    with torch.no_grad():
        for n, p in trained.items():
            p.copy_(point[n])
    buffers = {n: b.detach().clone() for n, b in plan.model.named_buffers()}
    written = {n: p._version for n, p in plan.model.named_parameters()}  # counted up by whatever writes to it
    watch, drawn = Watch(plan, dict(plan.model.named_modules())), _streams()
    with _noting(plan) as read:
        loss = plan._loss_of(plan.model, batch)
    if not loss.requires_grad:
        why = why_no_gradient(plan.model)
        raise plan.fail("plan", f"training_step returned a loss that depends on no parameter: {why}")
    if _streams() != drawn:
        raise refused(
            name,
            "training_step draws random numbers, and every node has a stream of its own",
            "Draw them in training_data, as a Dataset that augments",
        )
    if read:
        raise refused(
            name,
            f"training_step reads {read[0]}, which is another at each node",
            "Give it to the step as a part of the batch",
        )
    for n, buffer in plan.model.named_buffers():
        if n not in buffers or not torch.equal(buffers[n], buffer):
            raise refused(
                name, f"training_step changes the model's buffer {n}", "Use layers without such buffers"
            )
    for n, p in plan.model.named_parameters():
        if written.get(n) != p._version:
            raise refused(
                name,
                f"training_step writes to the model's parameter {n}, as an Embedding with max_norm does",
                "Leave it to the optimizer",
            )
    try:
        watch.check()
    except NotPrivate as error:
        raise refused(
            name, f"training_step changes {_changed_in(error)}, which nodes would share", "Leave it out"
        ) from error
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return loss.detach(), dict(zip(trained, found, strict=True))


def _vectorised(
    plan: TorchPlan, name: str, points: list[Tensors], batch: Any
) -> tuple[Tensors, torch.Tensor]:
    step = LossStep(plan.model, plan._loss_of)
    try:
        with without_advice():
            values = {n: torch.stack([point[n] for point in points]) for n in points[0]}
            found, losses = vmap(grad_and_value(step.at), randomness="error")(values, stacked([batch, batch]))
    except Exception as error:
        words = " ".join(str(error).split())
        data = "data-dependent" in words or ".item()" in words or "control flow" in words
        if data:
            raise refused(
                name,
                "training_step decides something by the values of tensors (`if`, `.item()`, `float(...)`)",
                "Write it with torch.where and the like",
            ) from error
        raise refused(name, f"torch.func can't vectorise training_step: {words[:300]}") from error
    return dict(found), losses


def _compare(name: str, plain: list[tuple[torch.Tensor, Any]], found: tuple[Tensors, torch.Tensor]) -> None:
    gradients, losses = found
    for place, (loss, expected) in enumerate(plain):
        pairs = {"the loss": (loss, losses[place])}
        for n, gradient in expected.items():
            pairs[f"the gradient of {n}"] = (
                torch.zeros_like(gradients[n][place]) if gradient is None else gradient,
                gradients[n][place],
            )
        for what, (own, other) in pairs.items():
            if not torch.isfinite(own).all():
                return  # the round says so of the node
            if (own - other).norm() > TOLERANCE * own.norm() + 1e-6:
                raise refused(
                    name,
                    f"{what} is not the same: training_step does not depend on the model's parameters and the batch "
                    "alone",
                )


def _draws(module: torch.nn.Module) -> bool:
    """Tell whether a layer draws random numbers while it is trained."""
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, (torch.nn.RNNBase, torch.nn.MultiheadAttention)):
        return bool(module.dropout)
    return isinstance(module, (torch.nn.RReLU, torch.nn.FractionalMaxPool2d, torch.nn.FractionalMaxPool3d))


def _streams() -> tuple[Any, ...]:
    """Return the states of the global generators of randomness."""
    of_numpy: Any = np.random.get_state()
    return random.getstate(), of_numpy[1].tobytes(), of_numpy[2], torch.get_rng_state().numpy().tobytes()


@contextmanager
def _noting(plan: TorchPlan) -> Iterator[list[str]]:
    """Note what is read of a plan's context inside."""
    read: list[str] = []
    own = plan.ctx

    class _Noting:
        def __getattribute__(self, name: str) -> Any:
            read.append(f"self.ctx.{name}" if name != "private" else "self.dataset or self.num_train")
            return getattr(own, name)

    plan.__dict__["_fedjob_ctx"] = _Noting()
    try:
        yield read
    finally:
        plan.__dict__["_fedjob_ctx"] = own
