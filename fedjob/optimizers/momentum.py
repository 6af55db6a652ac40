"""FedAvgM: a server optimizer that applies momentum to the nodes' average change.

Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification", section 4.3 (FedAvgM), https://arxiv.org/abs/1909.06335

    m(t+1) = momentum * m(t) + delta(t)
    x(t+1) = x(t) + lr * m(t+1)

With momentum 0 and lr 1 it is federated averaging.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.checks import check_decay, check_kinds, check_positive
from fedjob.optimizers.base import ServerOptimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FedAvgM(ServerOptimizer):
    """Gradient descent with momentum on the average change.

    Args:
        lr: the server's learning rate, above 0.
        momentum: from 0 to below 1.
    """

    lr: float = 1.0
    momentum: float = 0.9

    name: ClassVar[str] = "fedavgm"
    slots: ClassVar[tuple[str, ...]] = ("m",)

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("FedAvgM(lr=...)", self.lr)
        check_decay("FedAvgM(momentum=...)", self.momentum)

    def update(self, delta: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        return memory["m"].mul_(self.momentum).add_(delta) * self.lr
