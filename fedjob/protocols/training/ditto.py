"""Ditto: a shared model, and a personal model of each node that is kept near it.

Li, Hu, Beirami, Smith 2021, "Ditto: Fair and Robust Federated Learning Through
Personalization", algorithm 1, https://arxiv.org/abs/2012.04221

    w_k(t+1) = local training from w(t)
    v_k(t+1) = local training from v_k(t) on  F_k(v) + lam / 2 * |v - w(t)|^2,  v_k(0) = w of the first round
    w(t+1)   = sum_k n_k / n * w_k(t+1)

As a step of gradient descent:  v <- v - lr * (grad F_k(v) + lam * (v - w(t))).
Both trainings of a round take the same steps over the same batches, each with an
optimizer's state of its own.

The researcher keeps w. A node keeps v_k and both optimizers' states; v_k never leaves
it, only its metrics do, as phase `personal`. It leaks what federated averaging leaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_kinds, check_not_negative
from fedjob.protocols.base import Instruction, Local
from fedjob.protocols.training.base import TrainingProtocol, measured, train_apart
from fedjob.protocols.training.corrections import check_gradients, pull_towards

if TYPE_CHECKING:
    from fedjob.training_plans.base import TrainingPlan


@dataclass(frozen=True, slots=True)
class Ditto(TrainingProtocol):
    """Federated averaging, and a personal model at every node.

    Args:
        lam: strength with which a personal model is pulled towards the shared one, 0 or more.
    """

    lam: float = 0.1

    name: ClassVar[str] = "ditto"

    @property
    def copies(self) -> int:
        return 3 if self.lam > 0 else 2  # the shared answer, the personal model, and the way between them

    @property
    def optimizers(self) -> int:
        return 2  # that of the shared training, and that of the personal one

    @property
    def needs_single(self) -> str:
        return ""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_not_negative("Ditto(lam=...)", self.lam)

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        if self.lam > 0:
            check_gradients(plan, f"Ditto(lam={self.lam})")

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        plan, shared = local.plan, instruction["params"]
        trained = self.train_with(local)
        _, own, memory = train_apart(
            plan,
            local.state.get("personal", shared),
            local.state.get("plan"),
            pull_towards(shared, self.lam),
        )
        local.state.update(personal=own, plan=memory)
        metrics = dict(trained.metrics)
        if local.args.test_on_local_updates:
            metrics |= measured(plan, "personal")
        plan.set_params(trained.value)
        return replace(trained, metrics=metrics)
