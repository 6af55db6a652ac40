"""FedNova: averaging of updates that are normalised by the number of steps of each node.

Wang, Liu, Liang, Joshi, Poor 2020, "Tackling the Objective Inconsistency Problem in
Heterogeneous Federated Optimization", equations 6 to 9, https://arxiv.org/abs/2007.07481

    w_k    = local training from w(t)
    d_k    = (w(t) - w_k) / a_k                  a_k: the 1-norm of the weights of the node's gradients
    tau    = sum_k n_k / n * a_k                 the effective number of steps
    w(t+1) = w(t) - tau * sum_k n_k / n * d_k

Plain SGD weighs each of its K gradients by 1, so a_k = K; with momentum rho it is
(K - rho * (1 - rho^K) / (1 - rho)) / (1 - rho). Any torch.optim.SGD without weight decay
is counted exactly, each round with a fresh momentum as in the paper; for any other
optimizer a_k is the number of updates. Where all a_k are equal it is federated averaging.
Buffers, such as running means, and whole numbers are averaged.

The researcher keeps w; a node keeps nothing for the protocol. It leaks d_k, a_k and n_k to
the researcher; the two weighted sums are enough, so it can run under secure aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.step_inputs import PLAIN
from fedjob.protocols.training.base import TrainingProtocol

MODULE = "fednova"


@dataclass(frozen=True, slots=True)
class FedNova(TrainingProtocol):
    """Normalised averaging, for nodes that make unequal numbers of steps."""

    name: ClassVar[str] = "fednova"

    @property
    def copies(self) -> int:
        return 2  # the trained parameters, and their change

    @property
    def needs_single(self) -> str:
        return ""

    def start(self, params: Mapping[str, Any]) -> State:
        return {**TrainingProtocol.start(self, params), "buffers": list(kinds_of(params).buffers)}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {**TrainingProtocol.inputs_of(self, step), "averaged": PLAIN}

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        averaged, params = _averaged(state), state["params"]
        return replace(
            ask,
            shared={**ask.shared, "averaged": averaged},
            aux={MODULE: {"steps": ("F64", ())}},
            origin={
                name: params[name] for name in averaged
            },  # the others are sent as differences, which are measured from zero
            sends_total=False,
        )

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        import torch

        plan, averaged = local.plan, set(instruction["averaged"])
        plan.set_state({name: kept for name, kept in plan.get_state().items() if name != "optimizer"})
        outcome = plan.train_locally()
        steps = gradient_weight(plan, outcome.num_updates)
        before, after = instruction["params"], plan.get_params()
        value = {
            name: after[name] if name in averaged else (before[name] - after[name]).div_(steps)
            for name in after
        }
        aux = {MODULE: {"steps": torch.tensor(steps, dtype=torch.float64)}}
        return Contribution(value, float(outcome.num_examples), {"train": outcome.metrics}, aux)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        if MODULE not in gathered.total.aux:
            return after
        steps = float(gathered.total.aux[MODULE]["steps"])
        before, total, averaged = state["params"], gathered.total.value, set(_averaged(state))
        params = {
            name: total[name] if name in averaged else before[name] - total[name] * steps for name in before
        }
        return {**after, "params": params}


def gradient_weight(plan: Any, num_updates: int) -> float:
    """Return the sum of the weights that an optimizer gave to its gradients in `num_updates` updates.

    It is the distance that the optimizer would have moved with gradients of 1 and a learning rate of 1.

    Raises:
        NodeFailure: the optimizer's parameter groups have different momentum settings.
    """
    import torch

    optimizer = getattr(plan, "optimizer", None)
    if not isinstance(optimizer, torch.optim.SGD):
        return float(num_updates)
    rules = {(g["momentum"], g["dampening"], g["nesterov"]) for g in optimizer.param_groups}
    if len(rules) > 1:
        raise plan.fail("plan", "FedNova needs one momentum for all parameter groups of the optimizer")
    momentum, dampening, nesterov = rules.pop()
    moved = buffer = 0.0
    for number in range(num_updates):
        buffer = 1.0 if number == 0 else momentum * buffer + 1 - dampening
        if not momentum:
            moved += 1.0
        else:
            moved += 1.0 + momentum * buffer if nesterov else buffer
    return moved


def _averaged(state: State) -> list[str]:
    """Return the names of the tensors that are averaged: buffers and whole numbers."""
    params, buffers = state["params"], state["buffers"]
    return [name for name in params if name in buffers or not params[name].is_floating_point()]
