"""FedYogi: a server optimizer that applies Yogi to the nodes' average change.

Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 (FedYogi),
https://arxiv.org/abs/2003.00295; the step itself stands in `adaptive.py`.

    v(t) = v(t-1) - (1 - beta2) * delta(t)^2 * sign(v(t-1) - delta(t)^2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.optimizers.adaptive import Adaptive

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """Yogi on the average change: the second moment moves towards delta^2 by a bounded step."""

    name: ClassVar[str] = "fedyogi"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        towards = (v - square).sign_()
        v.sub_(square.mul_(1 - self.betas[1]).mul_(towards))
