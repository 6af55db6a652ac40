"""The training of a node's own model beside the shared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjob.common.params import Params
    from fedjob.common.plans.base import Adjust, TrainingPlan, TrainOutcome


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
    outcome = plan.train(adjust)
    trained, kept = plan.get_params(), plan.get_state()
    plan.set_state(shared)
    return outcome, trained, kept
