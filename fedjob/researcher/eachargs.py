"""Training arguments that differ from node to node, or from ask to ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.common.plans.args import merged_args
from fedjob.common.schedules import at_round
from fedjob.common.types import check_party
from fedjob.researcher.spec import plain_args

if TYPE_CHECKING:
    from fedjob.common.protocols.base import Ask
    from fedjob.researcher.position import Position
    from fedjob.researcher.spec import JobSpec


def training_args_of(spec: JobSpec, position: Position, ask: Ask, node: str) -> dict[str, Any]:
    """Return what a node trains with in this round: the job's arguments, the node's own, then the ask's."""
    merged = merged_args(merged_args(position.training_args, spec.each.get(node, {})), ask.training_args)
    return at_round(merged, position.round + 1)


def checked_each(each: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return a node's own training arguments, by node, as plain data.

    Raises:
        SpecError: not such a map.
    """
    if each is None:
        return {}
    if not isinstance(each, Mapping):
        raise SpecError(
            f"each is a map from nodes to training arguments, such as {{'node-a': {{'epochs': 2}}}}, not {each!r}"
        )
    return {check_party(node): plain_args(f"each[{node!r}]", own) for node, own in each.items()}
