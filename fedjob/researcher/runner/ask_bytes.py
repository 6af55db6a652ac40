"""The bytes of a job's asks: of those that were played, and of those of later rounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from fedjob.execution.step_parts import largest
from fedjob.identity.keys import SIGNATURE_BYTES
from fedjob.messaging.attachments import MAX_COPIES_BYTES, is_attachable
from fedjob.messaging.messages import MAX_ATTACHED_BYTES, ROOM_BYTES, packed_parts
from fedjob.privacy.secagg.key_agreement import PUBLIC_BYTES, SumKeys, plain_keys

MAX_ROUNDS = 3
"""Rounds that are played: from the third on a round of these protocols sends what the one before it sent, or grows alike."""
_GROWTH_ROOM = 1.02
"""How many times its tensors a file may grow: the numbers in its header become longer, too."""


def step_sizes(parties: Collection[str]) -> tuple[int, ...]:
    """Return the most bytes of each object that all parties of a secure sum fetch for its steps, if no node falls out.

    Other parts of a message may take half of it.
    """
    public, signature = bytes(PUBLIC_BYTES), bytes(SIGNATURE_BYTES)
    signatures, names = dict.fromkeys(parties, signature), sorted(parties)
    keys = {
        name: SumKeys(node=name, shares=public, masks=public, lot=public, signature=signature)
        for name in parties
    }
    steps: list[dict[str, Any]] = [
        {"keys": plain_keys(keys)},
        {"lots": dict.fromkeys(parties, public)},
        {"taking_part": names},
        {"survivors": names, "masked": signatures},
        {"signatures": signatures},
    ]
    sizes: list[int] = []
    for step in steps:
        packed = packed_parts(step)
        parts = largest(packed, sum(map(len, packed.values())) - ROOM_BYTES // 2)
        sizes += map(len, parts.values())
    return tuple(sizes)


@dataclass(slots=True, kw_only=True)
class AskBytes:
    """The bytes of one ask.

    Args:
        nodes: that it goes to.
        shared: of each object that all of them fetch.
        own, up: node -> those that it alone fetches, and what it answers.
        steps: of each object that all of them fetch for the steps of a secure sum of their answers.
        packed: these are the most that they may be; smaller ones may be attached, and are then sent to each node.
    """

    nodes: frozenset[str]
    shared: tuple[int, ...]
    own: dict[str, tuple[int, ...]]
    up: dict[str, int]
    memory: int
    steps: tuple[int, ...] = ()
    packed: bool = False

    def down(self, node: str) -> int:
        """Return the bytes that a node fetches."""
        return self._with_task(node) + sum(self.steps) if node in self.nodes else 0

    def _with_task(self, node: str) -> int:
        return sum(self.shared) + sum(self.own.get(node, ()))

    def is_attached(self, num_nodes: int) -> bool:
        """True if all that its nodes fetch is attached to their tasks, and so sent each time; else a node keeps what it has."""
        crowded = any(self._with_task(node) > MAX_ATTACHED_BYTES for node in self.nodes)
        return not crowded and all(is_attachable(size, num_nodes) for size in self.shared)

    def sent(self, num_nodes: int) -> int:
        """Return the bytes that the researcher sends to the nodes of a job, by the rules of `messaging.attachments`."""
        attachable = [size for size in self.shared if is_attachable(size, num_nodes)]
        crowded = [node for node in self.nodes if self._with_task(node) > MAX_ATTACHED_BYTES]
        once = sum(self.shared) - (0 if crowded else sum(attachable))
        own = sum(sum(sizes) for node, sizes in self.own.items() if node in self.nodes)
        steps = sum(self.steps)
        sent = once + own + steps + sum(attachable) * (len(self.nodes) - len(crowded))
        if not self.packed:
            return sent
        most = min(MAX_ATTACHED_BYTES, MAX_COPIES_BYTES // num_nodes)
        return max(
            sent, own + steps + sum(max(size, len(self.nodes) * min(size, most)) for size in self.shared)
        )

    def grown(self, before: AskBytes, rounds: int) -> AskBytes:
        """Return this ask some rounds later, if each sends as much more as this one sends than that of the round before."""
        if len(self.shared) != len(before.shared):
            return self
        more = [max(0, now - then) for now, then in zip(self.shared, before.shared, strict=True)]
        if not any(more):
            return self
        shared = (
            now + math.ceil(one * rounds * _GROWTH_ROOM) for now, one in zip(self.shared, more, strict=True)
        )
        memory = self.memory + max(0, self.memory - before.memory) * rounds
        return replace(self, shared=tuple(shared), memory=memory)


@dataclass(slots=True)
class PlayedAsks:
    """The asks of the first rounds of a job and those after its last one; `whole` if nothing stopped the play."""

    rounds: list[list[AskBytes]] = field(default_factory=list)
    last: list[AskBytes] = field(default_factory=list)
    whole: bool = False

    @property
    def grows(self) -> bool:
        """True if each round sends more than the one before."""
        return len(self.rounds) >= MAX_ROUNDS and self.round(MAX_ROUNDS) != self.rounds[-1]

    def round(self, place: int) -> list[AskBytes]:
        """Return the asks of a round, counted from 0, that was played or comes later."""
        further = place - len(self.rounds) + 1
        if further <= 0 or len(self.rounds) < MAX_ROUNDS or len(self.rounds[-2]) != len(self.rounds[-1]):
            return self.rounds[min(place, len(self.rounds) - 1)]
        pairs = zip(self.rounds[-2], self.rounds[-1], strict=True)
        return [now.grown(before, further) for before, now in pairs]

    def asks(self, rounds: int) -> list[AskBytes]:
        """Return the asks of a job of so many rounds."""
        last = self.last
        if self.grows:  # its parameters are at most what another round would send
            most = max((ask.shared for ask in self.round(rounds)), key=sum)
            last = [replace(ask, shared=most) for ask in last]
        return [ask for place in range(rounds) for ask in self.round(place)] + last
