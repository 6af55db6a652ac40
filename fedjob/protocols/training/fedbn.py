"""FedBN: every node keeps its own batch normalisation.

Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via
Local Batch Normalization", algorithm 1, https://arxiv.org/abs/2102.07623

    w_k(t+1) = local training from w(t), with the node's own values in batch normalisation layers
    w(t+1)   = sum_k n_k / n * w_k(t+1)         over the parameters of all other layers

The researcher keeps the parameters of the other layers. A node keeps weights, biases
and running statistics of its batch normalisation, and its optimizer's state; they never
leave it. It leaks the rest of w_k and n_k to the researcher; the weighted sum is enough,
so it can run under secure aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.common.errors import SpecError
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols.training.partly_shared import PartlyShared


@dataclass(frozen=True, slots=True)
class FedBN(PartlyShared):
    """Federated averaging of all layers but batch normalisation."""

    name: ClassVar[str] = "fedbn"

    def own_names(self, params: Mapping[str, Any]) -> list[str]:
        own = list(kinds_of(params).batch_norm)
        if not own:
            raise SpecError(
                "FedBN leaves batch normalisation at the nodes, and this model has none: use FedAvg"
            )
        if len(own) == len(params):
            raise SpecError("FedBN leaves batch normalisation at the nodes, and this model has nothing else")
        return own
