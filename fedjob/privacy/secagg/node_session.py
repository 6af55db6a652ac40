"""A node's half of one secure sum, as a pure state machine: what it has shown so far decides what it may show next.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", figure 4 with the consistency check, https://eprint.iacr.org/2017/281

    keys     fresh key pairs, signed                                  U1: who did
    draw     of many nodes, or of groups: the lot that the keys commit to, of which with all others' it follows who is whose
             neighbour (see `neighbours`), and who is in which group. Otherwise everybody is a neighbour
    shares   shares of the mask key and of the own mask's secret,     U2: who did
             sealed for each neighbour
    mask     x + own mask + sum of masks in common, +  for neighbours U3: who did
             in U2 after it in the order of names, - for those before; and a signature of U2
    agree    a signature of U2 and U3, with the signatures of all of U3 under the same U2
    reveal   with `threshold` signatures of one U3: the shares of own masks for nodes in U3, of mask keys for those
             of U2 that are not; never both of one node

Each group has a sum of its own: the rest of the steps is about a group and its quorum. A node sends one masked vector, signs one U3, and reveals once. The caller writes a session to disk before it sends
what the session's step returned, and refuses further attempts at an ask after it has revealed in one. A session is bound
to the sha256 of the contribution that is masked in it before any of that is sent: what is computed again under the same
key may be another one, and two of them under the same masks would tell their difference.

An attempt that a node has sent a vector in can be revealed without it, by `threshold` others. With its keys for a further
attempt each node has signed that it reveals nothing of the earlier ones any more; so a node shares its secrets for a
further attempt only where fewer than `threshold` of those in the earlier one are not in this one. Of one contribution one
sum becomes known.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.errors import OtherContribution, SpecError
from fedjob.privacy.secagg.key_agreement import (
    IsSignedBy,
    Sign,
    SumKeys,
    check_keys,
    keys_digest,
    lot_digest,
    mask_seed,
    opened_shares,
    private_key,
    sealed_shares,
    self_seed,
    signed_keys,
)
from fedjob.privacy.secagg.mask_stream import derived
from fedjob.privacy.secagg.neighbours import (
    Neighbours,
    all_neighbours,
    drawn_groups,
    drawn_neighbours,
    size_of_graph,
)
from fedjob.privacy.secagg.secret_sharing import SECRET_BYTES, SHARE_BYTES, divided
from fedjob.privacy.secagg.terms import Terms, check_terms, usual_threshold

TENSORS, NUMBERS = b"tensors", b"numbers"
"""The lanes of a masked vector, each with masks of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierAttempt:
    """An attempt at the same ask in which this node has sent a vector.

    Args:
        members: who shared keys in it.
        threshold: so many of them reveal it.
    """

    members: list[str]
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSession:
    """A node's part in one secure sum. It holds secrets: it goes to the node's own disk and nowhere else.

    Args:
        share_key, mask_key: private keys.
        own_secret: of the own mask.
        lot: its number in the draw of who is whose neighbour.
        keys: of everybody, from the step `draw` on, or `shares` where all are neighbours.
        lots: of everybody; none where all are neighbours.
        sealed: neighbour -> what this one sent it.
        held: node -> its two shares, of the own mask's secret and of the mask key, from the step `mask` on.
        masked: what was masked; another vector is refused.
        taking_part: for whom it was.
        contribution: sha256 of all that was masked, see `masked_vector.contribution_digest`; empty before that is known.
        survivors: that it signed.
        revealed: it has shown its shares.
        earlier: the attempts before this one in which it has sent a vector.
        noise_secret: what the noise of its contribution comes of, the same in all attempts; empty where there is no noise.
    """

    node: str
    terms: Terms
    share_key: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)
    own_secret: bytes = field(repr=False)
    lot: bytes = field(repr=False)
    keys: dict[str, SumKeys] = field(default_factory=dict)
    lots: dict[str, bytes] = field(default_factory=dict, repr=False)
    sealed: dict[str, bytes] = field(default_factory=dict, repr=False)
    held: dict[str, bytes] = field(default_factory=dict, repr=False)
    masked: str = ""
    taking_part: list[str] = field(default_factory=list)
    contribution: str = ""
    survivors: list[str] = field(default_factory=list)
    revealed: bool = False
    earlier: list[EarlierAttempt] = field(default_factory=list)
    noise_secret: bytes = field(default=b"", repr=False)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_plain(cls, plain: Any) -> NodeSession:
        """Build it from `to_plain`'s data; raises `MessageError` if it is something else."""
        return from_plain(cls, plain)

    @property
    def neighbours(self) -> Neighbours:
        """Who is in the sum and whose neighbour, from the step `shares` on; of several groups, in this node's own."""
        graphs = graphs_of(self.terms, self.keys, self.lots)
        return next(graph for graph in graphs if self.node in graph.members)

    @property
    def commitment(self) -> bytes:
        """A hash by which a wrong share of the own mask's secret is found out; it says nothing of the secret."""
        return commitment_of(self.own_secret, self.terms)


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask of a vector: the seed of each lane, and whether it is added (1) or taken away (-1)."""

    tensors: bytes = field(repr=False)
    numbers: bytes = field(repr=False)
    sign: int


def commitment_of(secret: bytes, terms: Terms) -> bytes:
    """Return the hash that a node's own secret is held against."""
    return derived(secret, b"commitment", terms.digest)


def begun(node: str, terms: Terms, before: NodeSession | None = None) -> NodeSession:
    """Return a session with fresh secrets, but for that of the noise.

    Args:
        before: the session of the newest attempt at the same ask; None where this is the first.
    """
    earlier = [] if before is None else list(before.earlier)
    if before is not None and before.masked:
        graph = before.neighbours
        earlier.append(EarlierAttempt(members=list(graph.members), threshold=graph.quorum))
    noise_secret = b"" if before is None else before.noise_secret
    if terms.noise is not None and not noise_secret:
        noise_secret = secrets.token_bytes(SECRET_BYTES)
    return NodeSession(
        node=node,
        terms=terms,
        share_key=private_key(),
        mask_key=private_key(),
        own_secret=secrets.token_bytes(SECRET_BYTES),
        lot=secrets.token_bytes(SECRET_BYTES),
        earlier=earlier,
        noise_secret=noise_secret,
    )


def keys_of(session: NodeSession, sign: Sign) -> SumKeys:
    """Return the node's public keys, signed: the same whenever it is asked (Ed25519 signs without randomness)."""
    keys = (session.share_key, session.mask_key, session.lot)
    return signed_keys(session.terms, session.node, *keys, sign)


def pinned(
    session: NodeSession, keys: Mapping[str, SumKeys], is_signed_by: IsSignedBy, *, min_nodes: int = 0
) -> NodeSession:
    """Return the session with everybody's keys: of those the sum will be, and of no others in this attempt.

    Args:
        min_nodes: that the owner wants to take part.

    Raises:
        SpecError: the keys are not what they should be, or there were others before.
    """
    if session.keys:
        if dict(keys) != session.keys:
            raise SpecError("this node takes part with another list of nodes: a new attempt is needed")
        return session
    check_terms(session.terms, keys)
    if len(keys) // max(session.terms.groups, 1) < min_nodes:
        each = f" in {session.terms.groups} groups" if session.terms.groups > 1 else ""
        raise SpecError(f"{len(keys)} nodes take part{each}; the owner wants sums of {min_nodes} or more")
    own = keys.get(session.node)
    if own is None or not _is_own(own, session):
        raise SpecError(f"the list has no keys of {session.node}, or others than it sent")
    check_keys(keys, session.terms, is_signed_by)
    _check_forfeited(session, keys)
    return replace(session, keys=dict(keys))


def shared(session: NodeSession, lots: Mapping[str, bytes]) -> NodeSession:
    """Return the session with the shares that it sends to its neighbours, in `sealed`.

    Args:
        lots: of everybody, which the keys commit them to; none where all are neighbours.

    Raises:
        SpecError: a lot is another one, or this node has no keys of the others yet.
    """
    terms = session.terms
    _need(session.keys, "it has no keys of the others yet")
    if session.held:
        return session
    if is_drawn(terms, len(session.keys)):
        session = replace(session, lots=_checked_lots(session, lots))
    graph = session.neighbours
    holders = graph.holders(session.node)
    places = [graph.place_of(other) for other in holders]
    of_secret = divided(session.own_secret, graph.threshold, places)
    of_key = divided(session.mask_key, graph.threshold, places)
    sealed, held = {}, {}
    for number, other in enumerate(holders):
        shares = of_secret[number] + of_key[number]
        if other == session.node:
            held[other] = shares
        else:
            key = session.keys[other].shares
            sealed[other] = sealed_shares(session.share_key, key, terms, session.node, other, shares)
    return replace(session, sealed=sealed, held=held)


def _checked_lots(session: NodeSession, lots: Mapping[str, bytes]) -> dict[str, bytes]:
    if set(lots) != set(session.keys):
        raise SpecError(
            f"who is whose neighbour is drawn with the lots of all {len(session.keys)} nodes, found {len(lots)}: without "
            "one of them a new attempt is needed"
        )
    for node, lot in lots.items():
        if lot_digest(lot, session.terms, node) != session.keys[node].lot:
            raise SpecError(f"the lot of {node[:63]} is another one than its keys commit it to")
    return dict(lots)


def masked(
    session: NodeSession, taking_part: Collection[str], sealed: Mapping[str, bytes], what: str, sign: Sign
) -> tuple[NodeSession, list[Mask], bytes]:
    """Return the session, the masks that are applied to the node's vector, and its signature of whom that is for.

    Args:
        taking_part: who shared secrets (U2).
        sealed: neighbour of those -> the shares that it sealed for this one.
        what: sha256 of the vector and of its layout.

    Raises:
        SpecError: too few sent theirs, a share is not by its node, or another vector was masked before.
    """
    terms = session.terms
    _need(session.held, "it has shared no secrets yet")
    chosen = sorted(set(taking_part))
    graph = session.neighbours
    _check_subset(chosen, graph.members, graph.quorum, "shared secrets")
    others = [other for other in graph.of(session.node) if other in set(chosen)]
    if session.node not in chosen or set(sealed) != set(others):
        raise SpecError(
            "a node masks with all of its neighbours that take part, and needs the shares of each"
        )
    _check_core(graph, chosen, "shared secrets")
    if session.masked and (session.masked != what or session.taking_part != chosen):
        raise SpecError("a node sends one masked vector: a new attempt is needed for another")
    if not session.masked:
        held = dict(session.held)
        for other, one in sealed.items():
            key = session.keys[other].shares
            shares = opened_shares(session.share_key, key, terms, other, session.node, one)
            if len(shares) != 2 * SHARE_BYTES:
                raise SpecError(f"{other} sealed something else than two shares")
            held[other] = shares
        session = replace(session, held=held, masked=what, taking_part=chosen)
    masks = [_own_mask(session.own_secret, terms, graph)]
    for other in others:
        sign_ = 1 if session.node < other else -1
        masks.append(common_mask(session.mask_key, session.keys[other].masks, terms, graph, sign_))
    return session, masks, sign(taking_part_bytes(session))


def bound(session: NodeSession, contribution: str) -> NodeSession:
    """Return the session, in which this contribution and no other is masked from now on.

    Args:
        contribution: sha256 of all that goes into the vector.

    Raises:
        OtherContribution: it is bound to another one.
        SpecError: nothing of that step was asked for yet.
    """
    _need(session.masked and contribution, "it was asked for no vector yet")
    if session.contribution not in ("", contribution) or (session.revealed and not session.contribution):
        raise OtherContribution(
            "this node has masked another contribution with the keys of this attempt: a new attempt is needed, with fresh "
            "ones"
        )
    return replace(session, contribution=contribution)


def agreed(
    session: NodeSession,
    survivors: Collection[str],
    signatures: Mapping[str, bytes],
    sign: Sign,
    is_signed_by: IsSignedBy,
) -> tuple[NodeSession, bytes]:
    """Return the session, and the node's signature of those whose vectors are added.

    Args:
        signatures: survivor -> its signature of whom it masked for.

    Raises:
        SpecError: they are too few, too few of one's neighbours, or masked for others than this node did; this node is
            not among them, or it signed others before.
    """
    chosen = sorted(set(survivors))
    _need(session.masked and session.contribution, "it has masked no vector yet")
    graph = session.neighbours
    _check_subset(chosen, session.taking_part, graph.quorum, "sent a masked vector")
    if session.node not in chosen:
        raise SpecError("a node agrees to sums that it is part of")
    if session.survivors not in ([], chosen):
        raise SpecError("a node agrees to one sum: a new attempt is needed for another")
    _check_core(graph, chosen, "sent a masked vector")
    if not session.survivors:
        masked_for = taking_part_bytes(session)
        for node in chosen:
            if node != session.node and not is_signed_by(node, signatures.get(node, b""), masked_for):
                raise SpecError(f"{node} has not signed that it masked for the same nodes as {session.node}")
    session = replace(session, survivors=chosen)
    return session, sign(survivors_bytes(session))


def revealed(
    session: NodeSession, signatures: Mapping[str, bytes], is_signed_by: IsSignedBy
) -> tuple[NodeSession, dict[str, bytes], dict[str, bytes]]:
    """Return the session, shares of the own masks of those that are added, and shares of the mask keys of the others.

    Args:
        signatures: node -> its signature of the survivors that this node has signed, too.

    Raises:
        SpecError: fewer than `threshold` of them signed the same.
    """
    _need(session.survivors, "it has agreed to no sum yet")
    chosen, agreed_bytes = session.survivors, survivors_bytes(session)
    signed_ = [
        node
        for node, signature in signatures.items()
        if node in chosen and is_signed_by(node, signature, agreed_bytes)
    ]
    needed = session.neighbours.quorum
    if len(signed_) < needed:
        raise SpecError(
            f"{len(signed_)} nodes have agreed to this sum, {needed} are needed: nothing is revealed"
        )
    own_masks = {node: shares[:SHARE_BYTES] for node, shares in session.held.items() if node in chosen}
    mask_keys = {node: shares[SHARE_BYTES:] for node, shares in session.held.items() if node not in chosen}
    return replace(session, revealed=True), own_masks, mask_keys


def taking_part_bytes(session: NodeSession) -> bytes:
    """Return the bytes by which a node says whom it masked for."""
    about = [session.terms.digest, session.neighbours.digest, session.taking_part]
    return pack(["fedjob secure sum: masked for 1", *about])


def survivors_bytes(session: NodeSession) -> bytes:
    """Return the bytes by which a node agrees to a sum."""
    about = [session.terms.digest, session.neighbours.digest, session.taking_part, session.survivors]
    return pack(["fedjob secure sum: survivors 2", *about])


def is_drawn(terms: Terms, num_nodes: int) -> bool:
    """Tell whether it is drawn who is whose neighbour."""
    return terms.groups > 1 or size_of_graph(num_nodes, terms.colluding, terms.dropouts) is not None


def graphs_of(terms: Terms, keys: Mapping[str, SumKeys], lots: Mapping[str, bytes]) -> list[Neighbours]:
    """Return who is whose neighbour in each group, from everybody's keys and lots; see `neighbours`.

    Args:
        lots: none where nothing is drawn.
    """
    if not is_drawn(terms, len(keys)):
        return [all_neighbours(keys, terms.threshold)]
    about = keys_digest(keys, terms)
    if terms.groups > 1:
        return drawn_groups(terms.groups, usual_threshold, about, lots)
    size = size_of_graph(len(keys), terms.colluding, terms.dropouts)
    assert size is not None
    return [drawn_neighbours(size, terms.threshold, about, lots)]


def common_mask(own: bytes, other: bytes, terms: Terms, graph: Neighbours, sign: int) -> Mask:
    """Return the mask that two nodes have in common."""
    digest = graph.digest
    seed: Callable[[bytes], bytes] = lambda lane: mask_seed(own, other, terms, digest, lane)  # noqa: E731
    return Mask(seed(TENSORS), seed(NUMBERS), sign)


def _own_mask(secret: bytes, terms: Terms, graph: Neighbours, sign: int = 1) -> Mask:
    digest = graph.digest
    return Mask(self_seed(secret, terms, digest, TENSORS), self_seed(secret, terms, digest, NUMBERS), sign)


def own_mask_taken_away(secret: bytes, terms: Terms, graph: Neighbours) -> Mask:
    """Return a node's own mask, as it is taken away from a sum."""
    return _own_mask(secret, terms, graph, -1)


def _is_own(keys: SumKeys, session: NodeSession) -> bool:
    fresh = keys_of(session, lambda _: b"")
    return (keys.shares, keys.masks, keys.lot) == (fresh.shares, fresh.masks, fresh.lot)


def _check_forfeited(session: NodeSession, keys: Collection[str]) -> None:
    """Refuse an attempt while an earlier one, which this node's vector is in, can still be revealed."""
    for one in session.earlier:
        left = len(set(one.members) - set(keys))
        if left >= one.threshold:
            raise SpecError(
                f"{left} nodes of an earlier attempt are not in this one, and {one.threshold} can reveal that: a node "
                "is in one sum of a contribution"
            )


def _check_subset(chosen: list[str], whole: Collection[str], threshold: int, what: str) -> None:
    if not set(chosen) <= set(whole):
        raise SpecError(f"{', '.join(sorted(set(chosen) - set(whole)))[:200]} never {what}")
    if len(chosen) < threshold:
        raise SpecError(f"{len(chosen)} nodes {what}, {threshold} are needed: nothing is revealed")


def _check_core(graph: Neighbours, chosen: list[str], what: str) -> None:
    """Refuse a list in which a node has too few of its neighbours: its numbers could be told apart from the others'."""
    if alone := sorted(set(chosen) - set(graph.core(chosen))):
        raise SpecError(
            f"{', '.join(alone)[:200]} have fewer than {graph.threshold} neighbours among those that {what}: nothing is "
            "revealed"
        )


def _need(found: Any, what: str) -> None:
    if not found:
        raise SpecError(f"the node is at another step of this sum: {what}")
