"""The sums that the noise of whole nodes can be put on, and what it promises, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.sum import Sum
from fedjob.common.errors import SpecError
from fedjob.parameters.safetensors_header import Schema
from fedjob.parameters.tensor_kinds import NUM_EXAMPLES, kinds_of
from fedjob.privacy.protect import NodeDP
from fedjob.privacy.secagg.masked_vector import float_names
from fedjob.protocols.base import Ask


def check_noised(rule: Aggregator, schema: Schema, origin: Mapping[str, Any], ask: Ask) -> None:
    """Refuse what noise can't be put on.

    Args:
        rule: the aggregator of the ask.
        schema: of a contribution.
        origin: the parameters of the round that it is measured from.

    Raises:
        SpecError: it says what to use instead.
    """
    if type(rule) is Sum:
        raise SpecError("NodeDP is about the mean of updates of parameters, and not about sums")
    if absent := sorted(set(float_names(schema, noised=True)) - set(origin)):
        raise SpecError(
            f"NodeDP bounds by how much a node changes the round's parameters, and {absent[0]} is none of them"
        )
    if NUM_EXAMPLES in schema:
        raise SpecError(
            "the plan's estimator follows from sums over all examples, and NodeDP is for plans that are trained step by "
            "step: use an estimator with partial_fit, or TorchPlan"
        )
    if norms := [name for name in kinds_of(ask.shared.get("params", {})).batch_norm if name in schema]:
        raise SpecError(
            f"noise makes running variances negative, such as that of {norms[0]}: use GroupNorm in the model, or FedBN, "
            "which leaves batch normalisation at the nodes"
        )


def promise_in_words(noise: NodeDP, rounds: int) -> str:
    """Return what is promised, and that nothing else comes."""
    return (
        f"NodeDP: of whatever one node holds, all {rounds} rounds together tell no more than epsilon={noise.epsilon:g} with "
        f"delta={noise.delta:g}; all nodes weigh alike, and neither metrics nor numbers of examples leave them"
    )
