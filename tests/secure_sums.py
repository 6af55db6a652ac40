"""Nodes of a secure sum in this process, and a researcher who asks them, in whatever order and with whatever lies."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import FedjobError, SpecError
from fedjob.identity.keys import Identity, verify
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.key_agreement import SumKeys, plain_keys, read_keys
from fedjob.privacy.secagg.mask_stream import MaskStream
from fedjob.privacy.secagg.node_session import Mask, NodeSession
from fedjob.privacy.secagg.steps import SumAnswer, SumStep, SumSteps
from fedjob.privacy.secagg.sum_recovery import Revealed, masks_left
from fedjob.privacy.secagg.terms import Terms, usual_threshold

LENGTH = 40


@dataclass
class Sessions:
    """The disk of a node: sessions as bytes, the last write wins."""

    rows: dict[bytes, bytes] = field(default_factory=dict)

    def find(self, terms: Terms) -> NodeSession | None:
        row = self.rows.get(terms.digest)
        return None if row is None else NodeSession.from_plain(unpack(row))

    def latest(self, terms: Terms) -> tuple[int, bool]:
        same = [
            s
            for s in map(NodeSession.from_plain, map(unpack, self.rows.values()))
            if s.terms.ask == terms.ask
        ]
        return max((s.terms.attempt for s in same), default=0), any(s.revealed for s in same)

    def put(self, session: NodeSession) -> None:
        for digest, row in list(self.rows.items()):
            other = NodeSession.from_plain(unpack(row))
            if (
                other.terms.ask == session.terms.ask
                and other.terms.attempt < session.terms.attempt
                and not other.revealed
            ):
                del self.rows[digest]
        self.rows[session.terms.digest] = pack(session.to_plain())


class SumNode:
    """One node: its identity, its disk and the vector that it holds.

    Args:
        vector: whole numbers of 32 bits that nobody but the node knows.
    """

    def __init__(self, name: str, roster: dict[str, str], vector: np.ndarray) -> None:
        self.identity = Identity.generate(name)
        roster[name] = self.identity.public_key_hex
        self.name = name
        self.vector = vector
        self.sessions = Sessions()
        self._roster = roster

    def ask(self, step: str, terms: Terms, *, settings: SecAgg | None = None, **body: Any) -> Any:
        """Answer a step as a node does: the session is on the disk before anything is sent."""
        wanted = SumStep(step=step, terms=terms, of=body.pop("of", ""), body=body)
        answer: SumAnswer = SumSteps(self.name, self.identity.sign, self._is_signed_by, self.sessions).answer(
            wanted, settings or SecAgg(), min_nodes=3
        )
        self.sessions.put(answer.session)
        if answer.vector is None:
            return answer.value
        return masked(self.vector, answer.vector.masks)

    def _is_signed_by(self, node: str, signature: bytes, data: bytes) -> bool:
        return node in self._roster and verify(self._roster[node], signature, data)


def masked(vector: np.ndarray, masks: list[Mask]) -> np.ndarray:
    """Return a vector with masks applied."""
    result = vector.copy()
    for mask in masks:
        MaskStream(mask.tensors, mask.sign).apply(result)
    return result


def nodes(num_nodes: int, seed: int = 0) -> dict[str, SumNode]:
    """Return nodes with random vectors."""
    rng, roster = np.random.default_rng(seed), {}
    return {
        f"n{k}": SumNode(f"n{k}", roster, rng.integers(0, 2**32, LENGTH, dtype=np.uint32))
        for k in range(num_nodes)
    }


def terms_for(num_nodes: int, **changes: Any) -> Terms:
    """Return terms of an ask."""
    terms = Terms(
        federation="f",
        job="j",
        round=1,
        step="train",
        attempt=1,
        shared="the model",
        threshold=usual_threshold(num_nodes),
        clip=8.0,
        num_nodes=num_nodes,
        max_weight=100.0,
        rule="weighted",
    )
    return replace(terms, **changes)


OUTLINE = {"names": ["clipped", "weight"], "exact": [], "constants": {}, "relative": []}


@dataclass
class Transcript:
    """What a researcher was told, and what follows from it."""

    terms: Terms
    keys: dict[str, SumKeys] = field(default_factory=dict)
    sealed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commitments: dict[str, bytes] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    revealed: dict[str, Revealed] = field(default_factory=dict)

    def ask_keys(self, node: SumNode) -> None:
        found = node.ask("keys", self.terms)["keys"]
        self.keys |= read_keys([found])

    def ask_shares(self, node: SumNode, keys: Mapping[str, SumKeys] | None = None) -> None:
        found = node.ask("shares", self.terms, keys=plain_keys(keys or self.keys))
        self.sealed[node.name], self.commitments[node.name] = found["sealed"], found["commitment"]

    def ask_vector(self, node: SumNode, of: str = "work", among: list[str] | None = None) -> np.ndarray:
        senders = among if among is not None else sorted(self.sealed)
        sealed = {name: self.sealed[name][node.name] for name in senders if node.name in self.sealed[name]}
        found: np.ndarray = node.ask("mask", self.terms, of=of, outline=OUTLINE, sealed=sealed)
        self.vectors[node.name] = found
        return found

    def ask_signature(self, node: SumNode, survivors: list[str] | None = None) -> None:
        chosen = survivors if survivors is not None else sorted(self.vectors)
        self.signatures[node.name] = node.ask("agree", self.terms, survivors=chosen)["signature"]

    def ask_shares_revealed(self, node: SumNode, signatures: Mapping[str, bytes] | None = None) -> None:
        found = node.ask("reveal", self.terms, signatures=dict(signatures or self.signatures))
        self.revealed[node.name] = Revealed(own_masks=found["own_masks"], mask_keys=found["mask_keys"])

    def sum_of(self, survivors: list[str] | None = None) -> np.ndarray:
        """Return the plain sum of the survivors' vectors."""
        chosen = survivors if survivors is not None else sorted(self.vectors)
        masks = masks_left(
            self.terms, self.keys, self.commitments, sorted(self.sealed), chosen, self.revealed
        )
        total = np.zeros(LENGTH, dtype=np.uint32)
        for name in chosen:
            total += self.vectors[name]
        return masked(total, masks)

    def holds_both(self) -> list[str]:
        """Return the nodes of which shares of both secrets were revealed: their single vectors would follow."""
        own = {name for one in self.revealed.values() for name in one.own_masks}
        return sorted(own & {name for one in self.revealed.values() for name in one.mask_keys})


def plain_sum(found: Mapping[str, SumNode], names: list[str]) -> np.ndarray:
    """Return what the sum should be."""
    total = np.zeros(LENGTH, dtype=np.uint32)
    for name in names:
        total += found[name].vector
    return total


def num_recovered(transcript: Transcript, found: Mapping[str, SumNode]) -> int:
    """Return how many single vectors a researcher can work out of what it was told.

    It takes every mask away whose secret at least `threshold` shares of give back.
    """
    known = 0
    for name, vector in transcript.vectors.items():
        try:
            masks = masks_left(
                transcript.terms,
                transcript.keys,
                transcript.commitments,
                sorted(transcript.sealed),
                [name],
                transcript.revealed,
            )
        except FedjobError:  # it can't: a secret is missing
            continue
        known += int((masked(vector, masks) == found[name].vector).all())
    return known


STEPS = ("keys", "shares", "mask", "agree", "reveal")


def random_pattern(seed: int) -> str:
    """Take a secure sum through a random pattern of dropouts, delays, repetitions and restarts; say how it ended.

    Returns:
        `sum`, the exact one, or `nothing`. No single vector can be worked out either way.
    """
    rng = random.Random(seed)
    found = nodes(rng.randint(3, 8), seed)
    told = Transcript(terms_for(len(found)))
    leaves = {name: rng.choice(STEPS) for name in found if rng.random() < 0.2}

    def ask(step: str, among: Collection[str], action: Callable[[SumNode], object]) -> None:
        gone = {name for name, at in leaves.items() if STEPS.index(at) <= STEPS.index(step)}
        names = [name for name in found if name not in gone and name in among]
        rng.shuffle(names)
        for name in names:
            for _ in range(
                rng.choice((1, 1, 2))
            ):  # a message may come twice; the session is read from the disk
                action(found[name])

    try:
        ask("keys", found, told.ask_keys)
        ask("shares", told.keys, told.ask_shares)
        ask("mask", told.sealed, told.ask_vector)
        ask("agree", told.vectors, told.ask_signature)
        ask("reveal", told.signatures, told.ask_shares_revealed)
        total = told.sum_of()
    except SpecError:
        end = "nothing"
    else:
        assert (total == plain_sum(found, sorted(told.vectors))).all(), f"pattern {seed}: the sum is wrong"
        end = "sum"
    assert num_recovered(told, found) == 0, f"pattern {seed}: a single vector is known"
    assert not told.holds_both(), f"pattern {seed}: both shares of one node were revealed"
    return end
