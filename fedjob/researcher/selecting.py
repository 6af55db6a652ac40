"""Which nodes an ask goes to, and with how many answers it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedjob.common.errors import SpecError
from fedjob.common.folds.collect import Collect
from fedjob.common.metrics import value
from fedjob.common.protocols.base import LOSS, Ask, Buffered, Gathered
from fedjob.common.quorum import ALL, Quorum
from fedjob.researcher.position import Position
from fedjob.researcher.selectors.base import Candidates, Selector

Gather = Callable[[Ask, Position], tuple[Gathered, Position]]


def addressed(
    ask: Ask, position: Position, selector: Selector, candidates: Candidates, quorum: Quorum, gather: Gather
) -> tuple[tuple[str, ...], Buffered | None, Position]:
    """Return the nodes of an ask, sorted, when it may stop early, and the position after what was asked first.

    Args:
        gather: for selectors that ask for losses before they choose.

    Raises:
        SpecError: the selection or the ask names nodes that the job does not have, or none.
        QuorumNotReached: too few nodes told their losses.
    """
    if ask.to is not None:
        return _known(ask.to, candidates), ask.until, position
    first = tuple(selector.ask_first(candidates))
    if first:
        asked = Ask(
            step=LOSS, shared={"params": ask.shared["params"]}, to=first, fold=Collect(), commit=False
        )
        gathered, position = gather(asked, position)
        losses = {node: value(reply.metrics[LOSS]["loss"]) for node, reply in gathered.replies.items()}
        candidates = replace(candidates, losses=losses)
    selected = selector.select(candidates)
    enough = selector.enough(selected)
    until = ask.until or (None if enough is None else Buffered(enough))
    # with required="all" it is those that were selected that must answer
    required = () if quorum.required == ALL else quorum.required
    return _known((*selected, *required), candidates), until, position


def _known(nodes: tuple[str, ...], candidates: Candidates) -> tuple[str, ...]:
    unknown = sorted(set(nodes) - set(candidates.nodes))
    if unknown or not nodes:
        raise SpecError(
            f"round {candidates.round} is for nodes {', '.join(nodes) or '(none)'}, "
            f"but the job has {', '.join(candidates.nodes)}"
        )
    return tuple(sorted(set(nodes)))
