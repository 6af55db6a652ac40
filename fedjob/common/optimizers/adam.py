"""FedAdam: a server optimizer that applies Adam to the nodes' average change.

Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 (FedAdam),
https://arxiv.org/abs/2003.00295; the step itself stands in `adaptive.py`.

    v(t) = beta2 * v(t-1) + (1 - beta2) * delta(t)^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.optimizers.adaptive import Adaptive

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """Adam on the average change: the second moment is a decaying average."""

    name: ClassVar[str] = "fedadam"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        beta = self.betas[1]
        v.mul_(beta).add_(square.mul_(1 - beta))
