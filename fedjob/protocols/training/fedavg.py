"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Agueera y Arcas 2017, "Communication-Efficient
Learning of Deep Networks from Decentralized Data", algorithm 1,
https://arxiv.org/abs/1602.05629

    w_k(t+1) = local training from w(t) on the examples of node k
    w(t+1)   = sum_k n_k / n * w_k(t+1)         over the nodes that answered

The researcher keeps w. A node keeps its optimizer's state, such as momentum.
It leaks w_k and n_k to the researcher; the weighted sum is enough, so it can
run under secure aggregation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedjob.protocols.training.base import TrainingProtocol


@dataclass(frozen=True, slots=True)
class FedAvg(TrainingProtocol):
    """Federated averaging, weighted by the number of examples."""

    name: ClassVar[str] = "fedavg"
    adds_sums: ClassVar[bool] = True

    @property
    def needs_single(self) -> str:
        return ""
