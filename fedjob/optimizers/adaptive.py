"""The step that the three adaptive server optimizers, FedAdagrad, FedAdam and FedYogi, share.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan 2021, "Adaptive
Federated Optimization", algorithm 2, https://arxiv.org/abs/2003.00295

    m(t) = beta1 * m(t-1) + (1 - beta1) * delta(t)        m(-1) = 0
    v(t) = ...                                            v(-1) = tau^2, or `first_v`
    x(t+1) = x(t) + lr * m(t) / (sqrt(v(t)) + tau)

There is no bias correction. FLamby (Ogier du Terrail et al. 2022) begins with
v(-1) = 0 and tau 1e-8: `first_v=0.0, tau=1e-8, betas=(0.9, 0.999)`.

FedAdagrad, FedAdam and FedYogi differ in the second moment alone:

    FedAdagrad  v(t) = v(t-1) + delta(t)^2                            beta2 is not used
    FedAdam     v(t) = beta2 * v(t-1) + (1 - beta2) * delta(t)^2
    FedYogi     v(t) = v(t-1) - (1 - beta2) * delta(t)^2 * sign(v(t-1) - delta(t)^2)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.checks import check_decay, check_kinds, check_not_negative, check_positive, shown
from fedjob.common.errors import SpecError
from fedjob.optimizers.base import ServerOptimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Adaptive(ServerOptimizer):
    """A step divided by the root of the second moment.

    Args:
        lr: the server's learning rate, above 0.
        tau: the degree of adaptivity, above 0: the smaller, the more the second moment decides the step.
        betas: decays of the first and the second moment, from 0 to below 1.
        first_v: the second moment before the first step, 0 or more; None for tau squared.
    """

    lr: float = 0.01
    tau: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    first_v: float | None = None

    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        check_kinds(self)
        kind = type(self).__name__
        check_positive(f"{kind}(lr=...)", self.lr)
        check_positive(f"{kind}(tau=...)", self.tau)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise SpecError(f"{kind}(betas=...) is two numbers from 0 to below 1, not {shown(self.betas)}")
        object.__setattr__(self, "betas", tuple(self.betas))
        for beta in self.betas:
            check_decay(f"each of {kind}(betas=...)", beta)
        if self.first_v is not None:
            check_not_negative(f"{kind}(first_v=...)", self.first_v)

    def first(self, slot: str) -> float:
        if slot == "m":
            return 0.0
        return self.tau**2 if self.first_v is None else self.first_v

    def update(self, delta: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        beta = self.betas[0]
        # multiplied, then added: a fused step would round differently on other processors
        memory["m"].mul_(beta).add_(delta * (1 - beta))
        self.second_moment(memory["v"], delta.square())
        return (memory["m"] * self.lr).div_(memory["v"].sqrt().add_(self.tau))

    @abstractmethod
    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        """Turn v(t-1) into v(t) in place; `square` is delta(t)^2 and may be overwritten."""


@dataclass(frozen=True, slots=True)
class FedAdagrad(Adaptive):
    """Adagrad on the average change: the second moment only grows."""

    name: ClassVar[str] = "fedadagrad"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        v.add_(square)


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """Adam on the average change: the second moment is a decaying average."""

    name: ClassVar[str] = "fedadam"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        beta = self.betas[1]
        v.mul_(beta).add_(square.mul_(1 - beta))


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """Yogi on the average change: the second moment moves towards delta^2 by a bounded step."""

    name: ClassVar[str] = "fedyogi"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        towards = (v - square).sign_()
        v.sub_(square.mul_(1 - self.betas[1]).mul_(towards))
