"""Federated averaging, then fine-tuning at every node.

McMahan et al. 2017, algorithm 1, https://arxiv.org/abs/1602.05629, then what Jiang,
Konecny, Rush, Kannan 2019, "Improving Federated Learning Personalization via Model
Agnostic Meta Learning", https://arxiv.org/abs/1909.12488, call personalization:

    w   = federated averaging for all rounds
    v_k = local training from w for `num_updates` or `epochs`, once

The researcher keeps w, which is the result. A node keeps v_k, which never leaves it;
only its metrics do, as phase `personal`. It leaks what federated averaging leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import check_count, check_kinds
from fedjob.common.errors import SpecError
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.training.base import TrainingProtocol, measured, train_apart

STEP = "fine_tune"


@dataclass(frozen=True, slots=True)
class FineTuned(TrainingProtocol):
    """Federated averaging, after which every node fine-tunes the shared model for itself.

    Args:
        num_updates: number of optimizer steps of the fine-tuning, 1 or more; give this or `epochs`.
        epochs: number of passes over the training data, 1 or more.
    """

    num_updates: int | None = None
    epochs: int | None = None

    name: ClassVar[str] = "finetuned"

    @property
    def needs_single(self) -> str:
        return ""

    def __post_init__(self) -> None:
        check_kinds(self)
        if (self.num_updates is None) == (self.epochs is None):
            raise SpecError("FineTuned takes num_updates=... or epochs=..., one of the two")
        for what, value in self._length().items():
            check_count(f"FineTuned({what}=...)", value)

    def _length(self) -> dict[str, Any]:
        given = {"num_updates": self.num_updates, "epochs": self.epochs}
        return {what: value for what, value in given.items() if value is not None}

    def may_follow(self, step: str) -> bool:
        return step == STEP or TrainingProtocol.may_follow(self, step)

    def args_of(self, step: str) -> Mapping[str, Any]:
        return self._length() if step == STEP else {}

    def start(self, params: Mapping[str, Any]) -> State:
        return {**TrainingProtocol.start(self, params), "tuned": False}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if state["round"] < view.rounds or state["tuned"]:
            return TrainingProtocol.instruct(self, state, view)
        return Ask(
            step=STEP,
            shared={"params": state["params"]},
            to=view.nodes,
            commit=False,
            schema={},
            answer=Nothing(),
            training_args=self.args_of(STEP),
        )

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        if instruction.step != STEP:
            return TrainingProtocol.contribute(self, instruction, local)
        outcome, local.state["personal"], _ = train_apart(local.plan, instruction["params"], None)
        metrics = measured(local.plan, "personal") if local.args.test_on_local_updates else {}
        return Contribution(None, float(outcome.num_examples), metrics)

    def finish(self, state: State, gathered: Gathered) -> State:
        if gathered.total.value is None and not state["tuned"]:
            return {**state, "tuned": True}
        return {**TrainingProtocol.finish(self, state, gathered), "tuned": gathered.total.value is None}
