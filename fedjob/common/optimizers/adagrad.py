"""FedAdagrad: a server optimizer that applies Adagrad to the nodes' average change.

Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 (FedAdagrad),
https://arxiv.org/abs/2003.00295; the step itself stands in `adaptive.py`.

    v(t) = v(t-1) + delta(t)^2                            beta2 is not used
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.optimizers.adaptive import Adaptive

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FedAdagrad(Adaptive):
    """Adagrad on the average change: the second moment only grows."""

    name: ClassVar[str] = "fedadagrad"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> None:
        v.add_(square)
