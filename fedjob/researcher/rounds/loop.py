"""The round loop: carry out the protocol's asks until it returns `Done`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, State, View
from fedjob.researcher.storage.position import Position

Finish = Callable[[Gathered], State]
"""Return the protocol's state after an ask, from its outcome; without side effects, because it may be tried again."""

Gather = Callable[[Ask, Position, Finish], tuple[Gathered, Position]]
"""Ask the nodes; return the aggregate of their answers, and the position with its state, measurements and ledger."""

Commit = Callable[[Position, Gathered], Position]
"""Make a completed round durable and call the hooks, which may ask to stop."""

Look = Callable[[Position, Gathered | None], View]
"""Return the part of the job that the protocol may see."""


def run_rounds(
    protocol: FederatedProtocol, position: Position, look: Look, gather: Gather, commit: Commit
) -> tuple[Any, Position]:
    """Run a protocol from a position to its end.

    Returns:
        The protocol's result and the last position.

    Raises:
        QuorumNotReached: too few nodes are left.
        FedjobError: whatever the seams raise; the last commit stands.
    """
    gathered = None
    while not isinstance(ask := protocol.instruct(position.state, look(position, gathered)), Done):
        gathered, position = carry_out(protocol, ask, position, gather, commit)
    return ask.value, position


def carry_out(
    protocol: FederatedProtocol, ask: Ask, position: Position, gather: Gather, commit: Commit
) -> tuple[Gathered, Position]:
    """Carry out one ask; return the aggregate of the answers, and the position after it."""
    before = position.state
    gathered, position = gather(ask, position, lambda outcome: protocol.finish(before, outcome))
    if ask.commit:
        position = commit(replace(position, round=position.round + 1), gathered)
    return gathered, position
