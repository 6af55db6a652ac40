"""The gradient of the proximal term, which FedProx and Ditto add during local training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedjob.common.errors import PlanError

if TYPE_CHECKING:
    import torch

    from fedjob.training_plans.base import Adjust, TrainingPlan


def check_gradients(plan: type[TrainingPlan], protocol: str) -> None:
    """Check that a plan lets a protocol correct its gradients.

    Raises:
        PlanError: the plan's machine learning library gives no access to gradients.
    """
    if not plan.shows_gradients:
        raise PlanError(
            f"{protocol} corrects gradients, and {plan.__name__} does not show any: derive it from TorchPlan",
            name=plan.__name__,
        )


def pull_towards(
    anchor: Mapping[str, torch.Tensor], strength: float, *, begins_there: bool = False
) -> Adjust | None:
    """Return a function that adds the gradient of `strength / 2 * |w - anchor|^2` to a model's gradients.

    Args:
        anchor: name -> tensor, of every trained parameter.
        strength: 0 or more; 0 gives None, so that plans without access to gradients can be used.
        begins_there: whether training begins at the anchor; the first step then has nothing to add.
    """
    if strength == 0:
        return None
    at: dict[str, torch.Tensor] = {}
    at_anchor = begins_there

    def adjust(model: torch.nn.Module) -> None:
        nonlocal at_anchor
        if at_anchor:
            at_anchor = False
            return
        for name, weight in model.named_parameters():
            if weight.grad is None:  # frozen, or no part of this loss
                continue
            if name not in at:
                at[name] = anchor[name].to(weight.device)
            weight.grad.add_(weight.detach() - at[name], alpha=strength)

    return adjust
