"""The training of many nodes at once: their parameters stacked, and one vectorised step for all of them.

Each node's gradients are those of its own batch at its own parameters, computed by `torch.func.vmap` over the nodes.
The optimizers that are taken work on every number of a parameter by itself, so that one step on stacked parameters is a
step at each node. Batches that are shorter than others are computed apart, and nodes that are done leave the stack.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.func import grad_and_value, vmap

from fedjob.common.errors import NodeFailure, PlanError
from fedjob.training_plans.batches import missing_in
from fedjob.training_plans.together.loss_step import Loss, LossStep, stacked, without_advice

Tensors = dict[str, torch.Tensor]

ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
)
"""Optimizers that work on every number of a parameter by itself, whatever its shape."""


@dataclass(kw_only=True)
class NodeTraining:
    """The training of one node, and what came of it.

    Args:
        model, optimizer: the node's own; they are as after a training of that node alone when it is done.
        loss: of a batch; nodes that are trained together have the same.
        batches: with how many examples each has.
        adjust: called with the model between gradients and step; None for nothing.
        clip_norm: the most that the norm of all gradients may be; None for no limit.
        args: what nodes that are trained together must have in common beside the optimizer's settings.
        fail: returns the error of a reason and its words.
        inside: entered while a batch is drawn, for what draws random numbers.
        updates: examples and loss of each update.
        error: why there are no more.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    batches: Iterator[tuple[int, Any]]
    adjust: Callable[[Any], None] | None
    clip_norm: float | None
    args: str
    fail: Callable[[str, str], NodeFailure]
    inside: Callable[[], AbstractContextManager[None]] = nullcontext
    updates: list[tuple[int, float]] = field(default_factory=list)
    error: Exception | None = None


def train_together(trainings: Sequence[NodeTraining]) -> None:
    """Train nodes, those at once whose models and optimizers are alike; each has its updates or its error then."""
    groups: dict[str, list[NodeTraining]] = {}
    for training in trainings:
        groups.setdefault(_likeness(training), []).append(training)
    for group in groups.values():
        _Stack(group).run()


def unused_names(model: torch.nn.Module, loss: torch.Tensor) -> list[str]:
    """Return the trainable parameters that a loss does not depend on: an optimizer leaves those alone."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, found, strict=True) if gradient is None]


class _Stack:
    """Nodes whose parameters are stacked, the first dimension counting the nodes."""

    def __init__(self, trainings: Sequence[NodeTraining]) -> None:
        first = trainings[0]
        self._live = list(trainings)
        self._step = LossStep(first.model, first.loss)
        self._groups = _groups_of(first)
        self._unused: frozenset[str] | None = None
        models = [dict(training.model.named_parameters()) for training in trainings]
        trained = [name for name, p in models[0].items() if p.requires_grad]
        self._trained = {name: _stack([model[name] for model in models]) for name in trained}
        others = [_others(training.model) for training in trainings]
        self._apart: Tensors = {}  # of tensors that are not trained, those in which the nodes differ
        for name, tensor in others[0].items():
            if not all(torch.equal(tensor, other[name]) for other in others[1:]):
                self._apart[name] = _stack([other[name] for other in others])
        self._optimizer = copy.copy(first.optimizer)
        self._give(self._trained, [_memory_of(training) for training in trainings])

    def run(self) -> None:
        """Take the steps of all nodes."""
        while self._live:
            batches = self._next_batches()
            if not self._live:
                return
            losses, gradients = self._gradients([batch for _, batch in batches])
            if not self._live:
                return
            self._note(batches, losses, gradients)

    def _next_batches(self) -> list[tuple[int, Any]]:
        """Draw the next batch of every node; those that have no more, or can't draw one, are done."""
        drawn: list[Any] = []
        for training in self._live:
            try:
                with training.inside():
                    drawn.append(next(training.batches, None))
            except Exception as error:  # of the node's own data
                training.error = error
                drawn.append(None)
        self._keep([place for place, batch in enumerate(drawn) if batch is not None])
        return [batch for batch in drawn if batch is not None]

    def _gradients(self, batches: list[Any]) -> tuple[list[float], Tensors]:
        """Return each node's loss, and the stacked gradients of all; a node whose step raises is done."""
        if self._unused is None:
            self._unused = self._find_unused(batches[0])
        alike: dict[str, list[int]] = defaultdict(list)
        for place, batch in enumerate(batches):
            alike[_shape_of(batch)].append(place)
        losses: list[float] = [0.0] * len(batches)
        gradients = {name: torch.zeros_like(p) for name, p in self._trained.items()} if len(alike) > 1 else {}
        failed: set[int] = set()
        for places in alike.values():
            for part in self._parts(places, batches, failed):
                part_places, found, values = part
                for place, value in zip(part_places, values, strict=True):
                    losses[place] = value
                if len(part_places) == len(batches):
                    gradients = found
                    continue
                if not gradients:
                    gradients = {name: torch.zeros_like(p) for name, p in self._trained.items()}
                index = torch.tensor(part_places, device=next(iter(found.values())).device)
                for name, gradient in found.items():
                    gradients[name].index_copy_(0, index, gradient)
        if failed:
            left = [place for place in range(len(batches)) if place not in failed]
            batches[:] = [batches[place] for place in left]
            index = torch.tensor(left, dtype=torch.int64)
            gradients = {name: g.index_select(0, index.to(g.device)) for name, g in gradients.items()}
            losses = [losses[place] for place in left]
            self._keep(left)
        return losses, gradients

    def _parts(
        self, places: list[int], batches: list[Any], failed: set[int]
    ) -> Iterator[tuple[list[int], Tensors, list[float]]]:
        """Yield the gradients of nodes with batches of one shape: of all at once, or one by one if a step raises."""
        try:
            yield places, *self._vectorised(places, batches)
            return
        except Exception as error:  # of one of the nodes, or of all
            if len(places) == 1:
                self._live[places[0]].error = error
                failed.add(places[0])
                return
        for place in places:
            try:
                yield [place], *self._vectorised([place], batches)
            except Exception as error:
                self._live[place].error = error
                failed.add(place)

    def _vectorised(self, places: list[int], batches: list[Any]) -> tuple[Tensors, list[float]]:
        batch = stacked([batches[place] for place in places])
        if batch is None:
            raise PlanError(
                "a batch that is no tree of tensors can't be vectorised: leave vectorize=True out"
            )
        trained, apart = self._trained, self._apart
        if len(places) < len(self._live):
            index = torch.tensor(places)
            trained, apart = _selected(trained, index), _selected(apart, index)

        def loss_at(own: Tensors, other: Tensors, one: Any) -> torch.Tensor:
            return self._step.at({**own, **other}, one)

        values = {name: p.detach() for name, p in trained.items()}
        with without_advice():
            found, losses = vmap(grad_and_value(loss_at), randomness="error")(values, apart, batch)
        return dict(found), losses.tolist()

    def _find_unused(self, batch: Any) -> frozenset[str]:
        """Return the parameters that no loss depends on: an optimizer would treat zeros as gradients."""
        first = self._live[0]
        try:
            return frozenset(unused_names(first.model, first.loss(first.model, batch).reshape(())))
        except Exception:  # the vectorised step says it of the node that it is of
            return frozenset()

    def _note(self, batches: list[Any], losses: list[float], gradients: Tensors) -> None:
        """Take a step of the optimizer, and note the losses; a node whose loss is not finite is done."""
        finite = []
        for place, (training, loss) in enumerate(zip(self._live, losses, strict=True)):
            size, batch = batches[place]
            if math.isfinite(loss):
                finite.append(place)
                training.updates.append((size, loss))
            else:
                advice = missing_in(batch) or "try a smaller learning rate"
                training.error = training.fail("not_finite", f"the loss is {loss}: {advice}")
        self._adjust(gradients)
        self._clip(gradients)
        for name, parameter in self._trained.items():
            unused = self._unused is not None and name in self._unused
            parameter.grad = None if unused else gradients[name]
        self._optimizer.step()
        for parameter in self._trained.values():
            parameter.grad = None
        self._keep(finite)

    def _adjust(self, gradients: Tensors) -> None:
        """Let the protocol of each node change its gradients."""
        unused = self._unused or frozenset()
        for place, training in enumerate(self._live):
            if training.adjust is not None:
                seen = _SeenModel(training.model, self._trained, gradients, unused, place)
                training.adjust(seen)
                seen.take()

    def _clip(self, gradients: Tensors) -> None:
        """Scale each node's gradients as `torch.nn.utils.clip_grad_norm_` does."""
        limit = self._live[0].clip_norm
        if limit is None:
            return
        norms = [
            g.unsqueeze(-1).flatten(1).norm(dim=1)
            for name, g in gradients.items()
            if name not in (self._unused or ())
        ]
        factors = (limit / (torch.stack(norms).norm(dim=0) + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(factors.to(gradient.dtype).reshape(-1, *[1] * (gradient.ndim - 1)))

    def _keep(self, places: list[int]) -> None:
        """Write back the nodes that are done, and go on with these."""
        if len(places) == len(self._live):
            return
        kept = set(places)
        for place, training in enumerate(self._live):
            if place not in kept and training.error is None:
                self._write_back(place, training)
        memories = self._memories()
        self._live = [self._live[place] for place in places]
        index = torch.tensor(places, dtype=torch.int64)
        self._apart = _selected(self._apart, index)
        self._trained = {
            name: t.detach().requires_grad_() for name, t in _selected(self._trained, index).items()
        }
        self._give(
            self._trained,
            [{n: {k: _part(v, i) for k, v in m.items()} for n, m in memories.items()} for i in places],
        )

    def _write_back(self, place: int, training: NodeTraining) -> None:
        named = dict(training.model.named_parameters())
        with torch.no_grad():
            for name, tensor in self._trained.items():
                named[name].copy_(tensor[place])
        for name, memory in self._memories().items():
            training.optimizer.state[named[name]] = {
                key: _part(value, place, copied=True) for key, value in memory.items()
            }

    def _memories(self) -> dict[str, dict[str, Any]]:
        """Return what the optimizer remembers of each parameter, stacked; plain numbers are those of every node."""
        return {
            name: self._optimizer.state[p]
            for name, p in self._trained.items()
            if self._optimizer.state.get(p)
        }

    def _give(self, trained: Tensors, memories: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        """Give the optimizer stacked parameters, and what it remembers of them."""
        self._optimizer.param_groups = [
            {**settings, "params": [trained[name] for name in names if name in trained]}
            for settings, names in self._groups
        ]
        self._optimizer.state = defaultdict(dict)
        if not memories:
            return
        for name in memories[0]:
            own = memories[0][name]
            self._optimizer.state[trained[name]] = {
                key: _stacked_value([memory[name][key] for memory in memories]) for key in own
            }


class _SeenModel:
    """A node's model as its protocol sees it between gradients and step: parameters by name, with their gradients."""

    def __init__(
        self, model: torch.nn.Module, trained: Tensors, gradients: Tensors, unused: frozenset[str], place: int
    ) -> None:
        self._named: Tensors = {}
        self._gradients = {name: g[place] for name, g in gradients.items() if name not in unused}
        for name, parameter in model.named_parameters():
            if name in trained:
                own = trained[name].detach()[place]
                own.grad = self._gradients.get(name)
                self._named[name] = own
            else:
                self._named[name] = parameter

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield names and parameters."""
        return iter(self._named.items())

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield the parameters."""
        return iter(self._named.values())

    def take(self) -> None:
        """Take gradients that were replaced instead of changed."""
        for name, gradient in self._gradients.items():
            found = self._named[name].grad
            if found is not None and found is not gradient:
                gradient.copy_(found)


def _likeness(training: NodeTraining) -> str:
    """Return what the nodes of one stack have in common."""
    shapes = [
        (name, tuple(t.shape), str(t.dtype), t.requires_grad)
        for name, t in (*training.model.named_parameters(), *training.model.named_buffers())
    ]
    groups = [(sorted(map(str, settings.items())), names) for settings, names in _groups_of(training)]
    memory = {
        name: {key: value if not _is_spread(value) else "" for key, value in own.items()}
        for name, own in _memory_of(training).items()
    }
    kind = type(training.optimizer).__name__
    return repr((shapes, kind, groups, memory, training.clip_norm, training.args))


def _groups_of(training: NodeTraining) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the settings of each of an optimizer's groups, and the names of its parameters."""
    name_of = {id(p): name for name, p in training.model.named_parameters()}
    return [
        (
            {key: value for key, value in group.items() if key not in ("params", "param_names")},
            [name_of[id(p)] for p in group["params"]],
        )
        for group in training.optimizer.param_groups
    ]


def _memory_of(training: NodeTraining) -> dict[str, dict[str, Any]]:
    """Return what a node's optimizer remembers, by parameter."""
    state = training.optimizer.state
    return {name: dict(state[p]) for name, p in training.model.named_parameters() if state.get(p)}


def _others(model: torch.nn.Module) -> Tensors:
    """Return the tensors of a model that are not trained."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(model.named_buffers())}


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.detach() for tensor in tensors]).requires_grad_(tensors[0].requires_grad)


def _is_spread(value: Any) -> bool:
    """Tell whether an optimizer remembers something for every number of a parameter."""
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _stacked_value(values: Sequence[Any]) -> Any:
    first = values[0]
    if _is_spread(first):
        return torch.stack(list(values))
    return first.clone() if isinstance(first, torch.Tensor) else first


def _part(value: Any, place: int, *, copied: bool = False) -> Any:
    if _is_spread(value):
        return value[place].clone() if copied else value[place]
    return value.clone() if isinstance(value, torch.Tensor) else value


def _selected(tensors: Mapping[str, torch.Tensor], index: torch.Tensor) -> Tensors:
    return {
        name: tensor.detach().index_select(0, index.to(tensor.device)) for name, tensor in tensors.items()
    }


def _shape_of(batch: Any) -> str:
    """Return the shapes and types of a batch's parts."""
    if isinstance(batch, torch.Tensor):
        return f"{tuple(batch.shape)}{batch.dtype}"
    if isinstance(batch, Mapping):
        return repr([(key, _shape_of(part)) for key, part in batch.items()])
    if isinstance(batch, (list, tuple)):
        return repr([_shape_of(part) for part in batch])
    return type(batch).__name__
