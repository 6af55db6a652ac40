"""The participants of an ask: the nodes that it goes to, and the number of answers with which it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from fedjob.aggregation.collect import Collect
from fedjob.common.checks import some_of
from fedjob.common.errors import SpecError
from fedjob.common.quorum import ALL, Quorum
from fedjob.data.node_names import place_of
from fedjob.metrics.states import is_state, value
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import LOSS, Ask, Buffered, Gathered
from fedjob.researcher.selection.base import Candidates, Selector
from fedjob.researcher.storage.position import Position

Gather = Callable[[Ask, Position], tuple[Gathered, Position]]


def addressed(
    ask: Ask, position: Position, selector: Selector, candidates: Candidates, quorum: Quorum, gather: Gather
) -> tuple[tuple[str, ...], Buffered | None, Position]:
    """Return the nodes of an ask, sorted, when it may stop early, and the position after what was asked first.

    Args:
        gather: for selectors that ask for losses before they choose.

    Raises:
        SpecError: the selection or the ask names nodes that the job does not have, or none.
        QuorumNotReached: too few nodes reported their losses.
    """
    if ask.to is not None:
        return _known(ask.to, candidates), ask.until, position
    # busy nodes must not give up their tasks for the sake of a loss
    busy = position.under_way if ask.late == "keep" else {}
    first = tuple(node for node in selector.ask_first(candidates) if node not in busy)
    if first:
        asked = Ask(
            step=LOSS,
            shared={"params": ask.shared["params"]},
            to=first,
            aggregator=Collect(),
            commit=False,
            answer=Nothing(),
        )
        gathered, position = gather(asked, position)
        candidates = replace(candidates, losses=_losses(gathered))
    selected = selector.select(candidates)
    enough = selector.enough(selected)
    until = ask.until or (None if enough is None else Buffered(enough))
    # with required="all" the selected nodes must answer, not all of the job
    required = () if quorum.required == ALL else quorum.required
    return _known((*selected, *required), candidates, may_be_none=bool(busy)), until, position


def _losses(gathered: Gathered) -> dict[str, float]:
    """Return node -> loss, of the nodes that reported a finite one."""
    reported = {node: reply.metrics.get(LOSS, {}).get("loss") for node, reply in gathered.replies.items()}
    losses = {node: value(state) for node, state in reported.items() if is_state(state)}
    return {node: loss for node, loss in losses.items() if math.isfinite(loss)}


def _known(nodes: Sequence[str], candidates: Candidates, *, may_be_none: bool = False) -> tuple[str, ...]:
    unknown = sorted(node for node in set(nodes) if place_of(node, candidates.nodes) is None)
    if unknown or not (nodes or may_be_none):
        named = f"names {some_of(unknown)}" if unknown else "is for no node"
        raise SpecError(f"round {candidates.round} {named}, but the job has {some_of(candidates.nodes)}")
    return tuple(sorted(set(nodes)))
