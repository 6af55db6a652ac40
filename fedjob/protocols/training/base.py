"""The base of training protocols: rounds of `train`, and asks to `validate` without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.common.errors import NodeFailure, SpecError
from fedjob.metrics.states import mean_state, num_examples
from fedjob.parameters.tensor_kinds import NUM_EXAMPLES
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import (
    LOSS,
    VALIDATE,
    Ask,
    Done,
    FederatedProtocol,
    Gathered,
    Instruction,
    Local,
    State,
    View,
)
from fedjob.protocols.step_inputs import TENSORS

if TYPE_CHECKING:
    from fedjob.parameters.files import Params
    from fedjob.training_plans.base import Adjust, TrainingPlan, TrainOutcome


class TrainingProtocol(FederatedProtocol):
    """Rounds of local training from shared parameters.

    In a round every selected node starts from the same parameters, trains, and
    answers with its parameters, weighted by the number of its examples. If the job
    asks for it, the node validates the parameters before or after training.
    """

    family = "train"

    adds_sums: ClassVar[bool] = False
    """True if a round is the mean over nodes, weighted by their examples, and nothing else, so that models that
    follow from sums over all examples (`parameters/tensor_kinds.py: NUM_EXAMPLES`) can be fitted with it."""

    answers_late: ClassVar[bool] = False
    """True if answers of earlier rounds count: `Ask(late="keep")`."""

    answers_factors: ClassVar[bool] = False
    """True if answers are factors of a product, which mean little in part."""

    @property
    def copies(self) -> int:
        """How many times its parameters a node holds at once, beside the model, its gradients and what comes and leaves."""
        return 0

    @property
    def optimizers(self) -> int:
        """How many optimizers' states a node keeps at once."""
        return 1

    def check(self, params: Mapping[str, Any]) -> None:
        if NUM_EXAMPLES in params and not self.adds_sums:
            raise SpecError(
                f"the plan's estimator is fitted exactly, from sums over the rows of all nodes, and {self.name} does "
                "more than add them up: use FedAvg()"
            )

    def start(self, params: Mapping[str, Any]) -> State:
        return {"params": params, "round": 0, "validated": False}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {"params": TENSORS}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if state["round"] < view.rounds:
            return Ask(step="train", shared={"params": state["params"]}, answer=Nothing())
        if view.validate_at_end and not state["validated"]:
            shared = {"params": state["params"]}
            return Ask(step=VALIDATE, shared=shared, to=view.nodes, commit=False, answer=Nothing())
        return Done(state["params"])

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan, args = local.plan, local.args
        plan.set_params(self.params_of(instruction, local))
        if instruction.step == VALIDATE:
            found = measured(plan, VALIDATE)
            seen = max((num_examples(state) for state in found.get(VALIDATE, {}).values()), default=0.0)
            return Contribution(None, float(plan.num_train or seen), found)
        if instruction.step == LOSS:
            found = mean_state(plan.training_loss(), plan.num_train)
            return Contribution(None, float(plan.num_train), {LOSS: {"loss": found}})
        metrics: dict[str, Any] = {}
        if args.test_on_global_updates:
            metrics |= measured(plan, "before")
        trained = self.train(instruction, local)
        metrics |= trained.metrics
        if args.test_on_local_updates:
            metrics |= measured(plan, "after")
        return replace(trained, metrics=metrics)

    def params_of(self, instruction: Instruction, local: Local) -> Mapping[str, Any]:
        """Return the parameters that this node validates and begins to train with."""
        params: Mapping[str, Any] = instruction["params"]
        return params

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        """Train the plan, which holds the instruction's parameters, and return the node's contribution."""
        return self.train_with(local, copy=False)

    def train_with(self, local: Local, adjust: Adjust | None = None, *, copy: bool = True) -> Contribution:
        """Train, with gradients corrected by `adjust`; return the parameters, number of examples and metrics.

        Args:
            copy: False where the plan is not trained again before the contribution is saved, which may then have the
                tensors of the plan's own model.
        """
        outcome = local.plan.train_locally(adjust)
        return Contribution(
            local.plan.get_params(copy=copy), float(outcome.num_examples), {"train": outcome.metrics}
        )

    def finish(self, state: State, gathered: Gathered) -> State:
        if gathered.total.value is None:  # a round that only validated
            return {**state, "validated": True}
        params = gathered.total.value
        if NUM_EXAMPLES in params and float(params[NUM_EXAMPLES]) > 0:
            whole = params[NUM_EXAMPLES] * 0 + gathered.total.weight
            params = {**params, NUM_EXAMPLES: whole}
        return {**state, "params": params, "round": state["round"] + 1, "validated": False}


def measured(plan: TrainingPlan, phase: str) -> dict[str, Any]:
    """Return what the plan's parameters are worth on the node's test split, by phase.

    It is empty where the node has too few examples for a split, such as a site with one patient, or where its owner's
    minimum of rows withholds what is measured on them: it trains, and the other nodes validate.
    """
    if plan.too_few_to_test:
        return {}
    try:
        return {phase: plan.validate(phase)}
    except NodeFailure as failure:
        if failure.reason != "min_rows":
            raise
        plan.ctx.emit("note", {"text": f"min_rows: {failure.detail}"})
        return {}


def train_apart(
    plan: TrainingPlan,
    params: Mapping[str, Any],
    memory: Mapping[str, Any] | None,
    adjust: Adjust | None = None,
) -> tuple[TrainOutcome, Params, dict[str, Any]]:
    """Train parameters with an optimizer state of their own; the plan's own optimizer state stays as it was.

    Afterwards the plan holds the trained parameters.

    Args:
        memory: the optimizer state that an earlier call returned; None for a fresh one.

    Returns:
        The outcome of the training, the parameters, and the optimizer state for the next call.
    """
    shared = plan.get_state()
    plan.set_state(memory)
    plan.set_params(params)
    outcome = plan.train_locally(adjust)
    trained, kept = plan.get_params(), plan.get_state()
    plan.set_state(shared)
    return outcome, trained, kept
