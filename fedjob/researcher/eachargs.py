"""Training arguments that differ from node to node, or from ask to ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.common.types import check_party
from fedjob.researcher.spec import plain_args

if TYPE_CHECKING:
    from fedjob.common.protocols.base import Ask
    from fedjob.researcher.position import Position
    from fedjob.researcher.spec import JobSpec

_LENGTHS = ("epochs", "num_updates")


def merged_args(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return training arguments with others in their place; epochs stand in for updates, and the reverse."""
    kept = dict(base)
    if any(over.get(name) is not None for name in _LENGTHS):
        kept = {name: value for name, value in kept.items() if name not in _LENGTHS}
    return {**kept, **over}


def training_args_of(spec: JobSpec, position: Position, ask: Ask, node: str) -> dict[str, Any]:
    """Return what a node trains with: the job's arguments, the node's own, then the ask's."""
    return merged_args(merged_args(position.training_args, spec.each.get(node, {})), ask.training_args)


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
