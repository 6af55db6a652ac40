"""The proximal term: what FedProx and Ditto add to a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedjob.common.errors import PlanError

if TYPE_CHECKING:
    import torch

    from fedjob.common.plans.base import Adjust, TrainingPlan


def check_gradients(plan: type[TrainingPlan], protocol: str) -> None:
    """See to it that a plan lets a protocol correct its gradients.

    Raises:
        PlanError: its library does not show them.
    """
    if not plan.shows_gradients:
        raise PlanError(
            f"{protocol} corrects gradients, and {plan.__name__} does not show any: derive it from TorchPlan",
            name=plan.__name__,
        )


def pull_towards(
    anchor: Mapping[str, torch.Tensor], strength: float, *, begins_there: bool = False
) -> Adjust | None:
    """Return what adds the gradient of `strength / 2 * |w - anchor|^2` to every gradient.

    Args:
        anchor: name -> tensor, of every trained parameter.
        strength: 0 or more; 0 gives None, so that plans without gradients can do it.
        begins_there: training begins at the anchor, where there is nothing to add.
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
