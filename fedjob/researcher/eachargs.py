"""The training arguments of one node in one round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedjob.common.plans.args import merged_args
from fedjob.common.schedules import at_round

if TYPE_CHECKING:
    from fedjob.common.protocols.base import Ask
    from fedjob.researcher.position import Position
    from fedjob.researcher.spec import JobSpec


def training_args_of(spec: JobSpec, position: Position, ask: Ask, node: str) -> dict[str, Any]:
    """Return what a node trains with in this round: the job's arguments, the node's own, then the ask's."""
    merged = merged_args(merged_args(position.training_args, spec.each.get(node, {})), ask.training_args)
    return at_round(merged, position.round + 1)
