"""Training a node's own model beside the shared one."""

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
    """Train parameters with an optimizer's memory of their own; the plan's stays as it was.

    Afterwards the plan holds the trained parameters.

    Args:
        memory: that an earlier call returned; None begins anew.

    Returns:
        What training did, the parameters, and the memory for the next call.
    """
    shared = plan.get_state()
    plan.set_state(memory)
    plan.set_params(params)
    outcome = plan.train(adjust)
    trained, kept = plan.get_params(), plan.get_state()
    plan.set_state(shared)
    return outcome, trained, kept
