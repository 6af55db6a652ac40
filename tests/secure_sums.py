"""Nodes of a secure sum in this process, and a researcher who asks them, in whatever order and with whatever lies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import FedjobError, SpecError
from fedjob.identity.keys import Identity, verify
from fedjob.messaging.messages import Task, shared_inputs
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg.key_agreement import SumKeys, plain_keys, read_keys
from fedjob.privacy.secagg.mask_stream import MaskStream
from fedjob.privacy.secagg.neighbours import Neighbours
from fedjob.privacy.secagg.node_noise import noise_terms
from fedjob.privacy.secagg.node_session import Mask, NodeSession, graphs_of, is_drawn
from fedjob.privacy.secagg.steps import Newest, SumAnswer, SumStep, SumSteps, VectorOrder, bound_to
from fedjob.privacy.secagg.sum_recovery import Revealed, masks_left
from fedjob.privacy.secagg.terms import Terms, least_threshold, usual_threshold
from fedjob.privacy.secagg.vector import Outline

LENGTH = 40


def first_terms(job: str, task: Task, *, noise: Any = None) -> Terms:
    """Return the terms of the first sum of a job of three nodes, in round 1."""
    return Terms(
        federation="test",
        job=job,
        round=1,
        step="train",
        attempt=1,
        shared=shared_inputs(task),
        threshold=3,
        clip=8.0,
        num_nodes=3,
        max_weight=1.0,
        rule="plain",
        noise=noise,
    )


@dataclass
class Sessions:
    """The disk of a node: sessions as bytes, the last write wins."""

    rows: dict[bytes, bytes] = field(default_factory=dict)

    def find(self, terms: Terms) -> NodeSession | None:
        row = self.rows.get(terms.digest)
        return None if row is None else NodeSession.from_plain(unpack(row))

    def newest(self, terms: Terms) -> Newest:
        same = [
            s
            for s in map(NodeSession.from_plain, map(unpack, self.rows.values()))
            if s.terms.ask == terms.ask
        ]
        if not same:
            return Newest()
        last = max(same, key=lambda s: s.terms.attempt)
        return Newest(attempt=last.terms.attempt, is_over=any(s.revealed for s in same), session=last)

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
        self.added: dict[bytes, np.ndarray] = {}  # terms -> the vector with its noise
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
        session, order = bound_to(answer.vector, answer.session, sha256(self.vector.tobytes()).hexdigest())
        self.sessions.put(session)
        return masked(self._with_noise(order), order.masks), answer.value["signature"]

    def _with_noise(self, order: VectorOrder) -> np.ndarray:
        found = self.vector.copy()
        if order.noise is not None:
            order.noise.add_to(found, 0)
        before = self.added.setdefault(order.terms.digest, found)
        assert (before == found).all(), "two vectors under the same masks"
        return found

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


OUTLINE = Outline(names=["clipped", "weight"]).packed


@dataclass
class Transcript:
    """What a researcher was told, and what follows from it."""

    terms: Terms
    settings: SecAgg = SecAgg()  # noqa: RUF009  (frozen)
    keys: dict[str, SumKeys] = field(default_factory=dict)
    lots: dict[str, bytes] = field(default_factory=dict)
    sealed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commitments: dict[str, bytes] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    masked_for: dict[str, bytes] = field(default_factory=dict)
    told_taking_part: dict[str, list[str]] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    revealed: dict[str, Revealed] = field(default_factory=dict)

    def ask_keys(self, node: SumNode) -> None:
        found = node.ask("keys", self.terms)["keys"]
        self.keys |= read_keys([found])

    def ask_lot(self, node: SumNode, keys: Mapping[str, SumKeys] | None = None) -> None:
        keys_ = plain_keys(keys or self.keys)
        self.lots[node.name] = node.ask("draw", self.terms, settings=self.settings, keys=keys_)["lot"]

    @property
    def has_graph(self) -> bool:
        """Whether the nodes that take part have few neighbours."""
        return is_drawn(self.terms, len(self.keys))

    @property
    def graph(self) -> Neighbours:
        """Who is whose neighbour, as far as the researcher knows."""
        (found,) = graphs_of(self.terms, self.keys, self.lots)
        return found

    def ask_shares(
        self,
        node: SumNode,
        keys: Mapping[str, SumKeys] | None = None,
        lots: Mapping[str, bytes] | None = None,
    ) -> None:
        body: dict[str, Any] = {"keys": plain_keys(keys or self.keys)}
        if lots or self.lots:
            body = {"lots": dict(lots or self.lots)}
        found = node.ask("shares", self.terms, settings=self.settings, **body)
        session = node.sessions.find(self.terms)
        assert session is not None
        others = session.neighbours.of(node.name)
        self.sealed[node.name] = dict(zip(others, found["sealed"], strict=True))
        self.commitments[node.name] = found["commitment"]

    def ask_vector(self, node: SumNode, of: str = "work", among: list[str] | None = None) -> np.ndarray:
        senders = sorted({*among, node.name}) if among is not None else self.graph.core(self.sealed)
        sealed = {
            name: self.sealed[name][node.name]
            for name in senders
            if name != node.name and node.name in self.sealed[name]
        }
        found = node.ask("mask", self.terms, of=of, outline=OUTLINE, taking_part=senders, sealed=sealed)
        self.vectors[node.name], self.masked_for[node.name] = found
        self.told_taking_part[node.name] = senders
        return self.vectors[node.name]

    def ask_signature(self, node: SumNode, survivors: list[str] | None = None) -> None:
        chosen = survivors if survivors is not None else self.graph.core(self.vectors)
        found = node.ask("agree", self.terms, survivors=chosen, masked=dict(self.masked_for))
        self.signatures[node.name] = found["signature"]

    def ask_shares_revealed(self, node: SumNode, signatures: Mapping[str, bytes] | None = None) -> None:
        found = node.ask("reveal", self.terms, signatures=dict(signatures or self.signatures))
        self.revealed[node.name] = Revealed(own_masks=found["own_masks"], mask_keys=found["mask_keys"])

    def sum_of(self, survivors: list[str] | None = None) -> np.ndarray:
        """Return the plain sum of the survivors' vectors."""
        chosen = survivors if survivors is not None else self.graph.core(self.vectors)
        taking_part = self.graph.core(self.sealed)
        masks = masks_left(
            self.terms, self.keys, self.commitments, taking_part, chosen, self.revealed, self.graph
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
    try:
        graph = transcript.graph
    except FedjobError:  # nobody knows it
        return 0
    for name, vector in transcript.vectors.items():
        try:
            masks = masks_left(
                transcript.terms,
                transcript.keys,
                transcript.commitments,
                transcript.told_taking_part.get(name, []),
                [name],
                transcript.revealed,
                graph,
            )
        except FedjobError:  # it can't: a secret is missing
            continue
        known += int((masked(vector, masks) == found[name].vector).all())
    return known


NOISE = noise_terms(
    epsilon=100.0,
    delta=1e-5,
    clip_norm=1.0,
    rounds=1,
    length=LENGTH,
    num_nodes=9,
    threshold=2,
    clip=8.0,
    bits=32,
)
"""The noise of sums of up to nine nodes, whatever their threshold."""


STEPS = ("keys", "draw", "shares", "mask", "agree", "reveal")

FEW, MANY = (3, 8), (21, 30)
"""Numbers of nodes that are all neighbours, and of nodes that have a graph."""


def random_pattern(seed: int, sizes: tuple[int, int] = FEW, losses: float = 0.2) -> str:
    """Take a secure sum through a random pattern of dropouts, delays, repetitions and restarts; say how it ended.

    Args:
        sizes: the least and the largest number of nodes.
        losses: the chance of each to be lost at some step.

    Returns:
        `sum`, the exact one, or `nothing`. No single vector can be worked out either way.
    """
    rng = random.Random(seed)
    found = nodes(rng.randint(*sizes), seed)
    told = Transcript(terms_for(len(found)))
    leaves = {name: rng.choice(STEPS) for name in found if rng.random() < losses}

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
        if told.has_graph:
            ask("draw", told.keys, told.ask_lot)
        ask("shares", told.keys, told.ask_shares)
        ask("mask", told.graph.core(told.sealed), told.ask_vector)
        ask("agree", told.graph.core(told.vectors), told.ask_signature)
        ask("reveal", told.signatures, told.ask_shares_revealed)
        total = told.sum_of()
    except SpecError:
        end = "nothing"
    else:
        assert (total == plain_sum(found, told.graph.core(told.vectors))).all(), (
            f"pattern {seed}: the sum is wrong"
        )
        end = "sum"
    assert num_recovered(told, found) == 0, f"pattern {seed}: a single vector is known"
    assert not told.holds_both(), f"pattern {seed}: both shares of one node were revealed"
    return end


def random_attempts(seed: int) -> int:
    """Let a researcher ask for several sums of the same contributions, of other nodes each time, in a random order.

    Every contribution has noise on it, and is in one sum at most; its noise is the same in all attempts of one threshold.

    Returns:
        How many sums became known.
    """
    rng = random.Random(seed)
    found = nodes(rng.randint(4, 9), seed)
    tries: list[tuple[Transcript, list[str]]] = []
    for attempt in range(1, rng.randint(2, 5)):
        revealed = {name for told, _ in tries for name in told.revealed}
        fresh = sorted(set(found) - revealed)  # who has revealed nothing yet is of most use to a liar
        some = fresh if len(fresh) >= 3 and rng.random() < 0.8 else sorted(found)
        members = rng.sample(some, rng.randint(3, len(some)))
        threshold = rng.randint(least_threshold(len(members)), len(members))
        about = {"attempt": attempt, "threshold": threshold, "rule": "plain", "max_weight": 1.0}
        told = Transcript(terms_for(9, **about, noise=NOISE), settings=SecAgg(threshold=2))
        try_steps(rng, told, [found[name] for name in members], found)
        tries.append((told, rng.sample(sorted(told.vectors), len(told.vectors))))
        for told, survivors in rng.sample(tries, len(tries)):  # old ones are asked again
            for name in survivors:
                with suppress(SpecError):
                    told.ask_signature(found[name], sorted(survivors))
            for name in survivors[: told.terms.threshold + rng.choice((-1, 0, 0, 0, 1))]:
                with suppress(SpecError):
                    told.ask_shares_revealed(found[name])
    known: Counter[str] = Counter()
    for told, survivors in tries:
        with suppress(SpecError):
            if not survivors:
                continue
            total = told.sum_of(survivors)
            added = [found[name].added[told.terms.digest] for name in survivors]
            assert (total == np.sum(added, axis=0, dtype=np.uint32)).all(), f"pattern {seed}: a wrong sum"
            known.update(survivors)
            known["sums"] += 1
    number = known.pop("sums", 0)
    assert max(known.values(), default=0) <= 1, f"pattern {seed}: a contribution is in two sums"
    for node in found.values():
        noises = {
            (told.terms.threshold, (node.added[told.terms.digest] - node.vector).tobytes())
            for told, _ in tries
            if told.terms.digest in node.added
        }
        assert len(noises) == len({threshold for threshold, _ in noises}), f"pattern {seed}: fresh noise"
    return number


def try_steps(
    rng: random.Random, told: Transcript, members: list[SumNode], found: Mapping[str, SumNode]
) -> None:
    """Take an attempt as far as the vectors, as far as the nodes go; some don't answer, some are asked twice."""

    def some(nodes_: Iterable[SumNode]) -> list[SumNode]:
        return [node for node in nodes_ for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2)))]

    for node in some(members):
        with suppress(SpecError):
            told.ask_keys(node)
    for node in some(found[name] for name in told.keys):
        with suppress(SpecError):
            told.ask_shares(node)
    for node in some(found[name] for name in told.sealed):
        with suppress(SpecError):
            told.ask_vector(node)
