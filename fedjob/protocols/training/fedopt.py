"""FedOpt: federated averaging with a server optimizer, which runs at the researcher.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan 2021, "Adaptive
Federated Optimization", algorithm 1 (FedOpt), https://arxiv.org/abs/2003.00295

    w_k(t+1) = local training from w(t) on the examples of node k
    delta(t) = sum_k n_k / n * w_k(t+1) - w(t)
    w(t+1)   = step of the server optimizer from w(t) along delta(t)

Buffers, such as running means, and whole numbers are averaged as FedAvg does: an
optimizer's step could make a running variance negative.

The researcher keeps w and the server optimizer's state. A node keeps its own
optimizer's state. It leaks what federated averaging leaks; the weighted sum is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_kinds, check_not_negative, shown
from fedjob.common.errors import SpecError
from fedjob.optimizers import OPTIMIZERS
from fedjob.optimizers.base import ServerOptimizer
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.protocols.training.corrections import check_gradients, pull_towards
from fedjob.protocols.training.fedavg import FedAvg
from fedjob.protocols.training.fedprox import FedProx

if TYPE_CHECKING:
    import torch

    from fedjob.training_plans.base import TrainingPlan


@dataclass(frozen=True, slots=True)
class FedOpt(TrainingProtocol):
    """Federated averaging whose average change is the gradient of a server optimizer.

    Args:
        optimizer: a server optimizer such as `FedAdam(lr=0.01)`, its name, or `{"name", "config"}`;
            it is stored in the last form.
        mu: strength of FedProx's proximal term during local training, 0 or more.
    """

    optimizer: Any = "fedavgm"
    mu: float = 0.0

    name: ClassVar[str] = "fedopt"

    @property
    def needs_single(self) -> str:
        return ""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_not_negative("FedOpt(mu=...)", self.mu)
        object.__setattr__(self, "optimizer", _as_data(self.optimizer))

    @property
    def copies(self) -> int:
        return 1 if self.mu > 0 else 0  # the way from the anchor, as FedProx

    @property
    def server(self) -> ServerOptimizer:
        """The server optimizer."""
        return OPTIMIZERS.build(self.optimizer["name"], self.optimizer["config"])

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        if self.mu > 0:
            check_gradients(plan, f"FedOpt(mu={self.mu})")

    def start(self, params: Mapping[str, Any]) -> State:
        return {**TrainingProtocol.start(self, params), "buffers": list(kinds_of(params).buffers)}

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        return replace(ask, sends_total=False) if isinstance(ask, Ask) else ask

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        return self.train_with(
            local, pull_towards(instruction["params"], self.mu, begins_there=True), copy=False
        )

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        average = gathered.total.value
        if average is None:
            return after
        params, server = state["params"], self.server
        moving = {
            name: params[name]
            for name in params
            if params[name].is_floating_point() and name not in state["buffers"]
        }
        memory = {slot: state[_key(slot)] for slot in server.slots if _key(slot) in state}
        moved, memory = server.step(moving, Change(moving, average), memory)
        new = {name: moved[name] if name in moved else average[name] for name in params}
        return {**after, "params": new, **{_key(slot): kept for slot, kept in memory.items()}}


class Change(Mapping[str, "torch.Tensor"]):
    """`after - before`, where each tensor is computed when it is read, so that memory holds no third set."""

    def __init__(self, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
        self._before = before
        self._after = after

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        before = self._before[name]
        dtype = torch.promote_types(before.dtype, torch.float32)
        return self._after[name].to(dtype) - before.to(dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)


def with_optimizer(protocol: FederatedProtocol, optimizer: Any) -> FederatedProtocol:
    """Return the protocol of `Job(protocol, server_optimizer=optimizer)`.

    Raises:
        SpecError: the protocol takes no server optimizer, or `optimizer` is not one.
    """
    if optimizer is None:
        return protocol
    if isinstance(protocol, FedAvg):
        return FedOpt(optimizer)
    if isinstance(protocol, (FedProx, FedOpt)):
        return FedOpt(optimizer, mu=protocol.mu)
    raise SpecError(
        f"server_optimizer goes with FedAvg() or FedProx(), not with {protocol.name}, which moves the shared "
        "parameters in a way of its own"
    )


def _as_data(optimizer: Any) -> dict[str, Any]:
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS.build(optimizer, {})
    elif isinstance(optimizer, type) and issubclass(optimizer, ServerOptimizer):
        optimizer = optimizer()
    elif isinstance(optimizer, Mapping):
        if set(optimizer) != {"name", "config"}:
            raise SpecError(f'a server optimizer as data is {{"name", "config"}}; found {shown(optimizer)}')
        optimizer = OPTIMIZERS.build(optimizer["name"], optimizer["config"])
    name, config = OPTIMIZERS.config_of(optimizer)
    return {"name": name, "config": config}


def _key(slot: str) -> str:
    return f"server_{slot}"
