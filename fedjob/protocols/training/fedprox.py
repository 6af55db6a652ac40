"""FedProx: federated averaging with a proximal term.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in
Heterogeneous Networks", algorithm 2, https://arxiv.org/abs/1812.06127

    w_k(t+1) = local training from w(t) on  F_k(w) + mu / 2 * |w - w(t)|^2
    w(t+1)   = sum_k n_k / n * w_k(t+1)

As a step of gradient descent:  w <- w - lr * (grad F_k(w) + mu * (w - w(t))).
The weights are numbers of examples; the paper draws nodes with probabilities in
proportion to them instead, and takes the plain mean.

The researcher keeps w. A node keeps its optimizer's state. It leaks what federated
averaging leaks, and can run under secure aggregation as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_kinds, check_not_negative
from fedjob.protocols.base import Instruction, Local
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.protocols.training.corrections import check_gradients, pull_towards

if TYPE_CHECKING:
    from fedjob.training_plans.base import TrainingPlan


@dataclass(frozen=True, slots=True)
class FedProx(TrainingProtocol):
    """Federated averaging that keeps local training near the shared parameters.

    Args:
        mu: strength of the pull, 0 or more; 0 is federated averaging.
    """

    mu: float = 0.01

    name: ClassVar[str] = "fedprox"

    @property
    def copies(self) -> int:
        return 1 if self.mu > 0 else 0  # the way from the anchor, of which the pull is a part

    @property
    def needs_single(self) -> str:
        return ""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_not_negative("FedProx(mu=...)", self.mu)

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        if self.mu > 0:
            check_gradients(plan, f"FedProx(mu={self.mu})")

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        return self.train_with(
            local, pull_towards(instruction["params"], self.mu, begins_there=True), copy=False
        )
