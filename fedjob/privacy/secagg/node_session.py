"""A node's half of one secure sum, as a pure state machine: what it has shown so far decides what it may show next.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", figure 4 with the consistency check, https://eprint.iacr.org/2017/281

    keys     fresh key pairs, signed                                  U1: who did
    shares   shares of the mask key and of the own mask's secret,     U2: who did
             sealed for each node of U1
    mask     x + own mask + sum of masks in common, +  for nodes      U3: who did
             of U2 after it in the order of names, - for those before
    agree    a signature of U3
    reveal   with `threshold` signatures of one U3: the shares of own masks for nodes in U3, of mask keys for those
             of U2 that are not; never both of one node

A node sends one masked vector, signs one U3, and reveals once. The caller writes a session to disk before it sends
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
    mask_seed,
    opened_shares,
    private_key,
    sealed_shares,
    self_seed,
    signed_keys,
)
from fedjob.privacy.secagg.mask_stream import derived
from fedjob.privacy.secagg.secret_sharing import SECRET_BYTES, SHARE_BYTES, divided
from fedjob.privacy.secagg.terms import Terms, check_terms

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
        keys: of everybody, from the step `shares` on.
        sealed: node -> what this one sent it there.
        held: node -> its two shares, of the own mask's secret and of the mask key, from the step `mask` on.
        masked: what was masked, and for whom; another vector is refused.
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
    keys: dict[str, SumKeys] = field(default_factory=dict)
    sealed: dict[str, bytes] = field(default_factory=dict, repr=False)
    held: dict[str, bytes] = field(default_factory=dict, repr=False)
    masked: str = ""
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
    def members(self) -> list[str]:
        """Everybody who shared keys, in the order of their names."""
        return sorted(self.keys)

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
        earlier.append(EarlierAttempt(members=before.members, threshold=before.terms.threshold))
    noise_secret = b"" if before is None else before.noise_secret
    if terms.noise is not None and not noise_secret:
        noise_secret = secrets.token_bytes(SECRET_BYTES)
    return NodeSession(
        node=node,
        terms=terms,
        share_key=private_key(),
        mask_key=private_key(),
        own_secret=secrets.token_bytes(SECRET_BYTES),
        earlier=earlier,
        noise_secret=noise_secret,
    )


def keys_of(session: NodeSession, sign: Sign) -> SumKeys:
    """Return the node's public keys, signed: the same whenever it is asked (Ed25519 signs without randomness)."""
    return signed_keys(session.terms, session.node, session.share_key, session.mask_key, sign)


def shared(
    session: NodeSession, keys: Mapping[str, SumKeys], is_signed_by: IsSignedBy, *, min_nodes: int = 0
) -> NodeSession:
    """Return the session with everybody's keys, and the shares that it sends, in `sealed`.

    Args:
        min_nodes: that the owner wants to take part.

    Raises:
        SpecError: the keys are not what they should be, or it shared for others before.
    """
    if session.keys:
        if dict(keys) != session.keys:
            raise SpecError("this node shared its secrets for another list of nodes: a new attempt is needed")
        return session
    check_terms(session.terms, keys)
    if len(keys) < min_nodes:
        raise SpecError(f"{len(keys)} nodes take part; the owner wants {min_nodes} or more")
    own = keys.get(session.node)
    if own is None or not _is_own(own, session):
        raise SpecError(f"the list has no keys of {session.node}, or others than it sent")
    check_keys(keys, session.terms, is_signed_by)
    _check_forfeited(session, keys)
    members = sorted(keys)
    of_secret = divided(session.own_secret, session.terms.threshold, len(members))
    of_key = divided(session.mask_key, session.terms.threshold, len(members))
    sealed, held = {}, {}
    for number, other in enumerate(members):
        shares = of_secret[number] + of_key[number]
        if other == session.node:
            held[other] = shares
        else:
            sealed[other] = sealed_shares(
                session.share_key, keys[other].shares, session.terms, session.node, other, shares
            )
    return replace(session, keys=dict(keys), sealed=sealed, held=held)


def masked(session: NodeSession, sealed: Mapping[str, bytes], what: str) -> tuple[NodeSession, list[Mask]]:
    """Return the session, and the masks that are applied to the node's vector.

    Args:
        sealed: node -> the shares that it sealed for this one; with this node they are U2.
        what: sha256 of the vector and of its layout.

    Raises:
        SpecError: too few sent theirs, a share is not by its node, or another vector was masked before.
    """
    terms, members = session.terms, session.members
    _need(session.keys, "it has shared no secrets yet")
    taking_part = sorted({*sealed, session.node})
    _check_subset(taking_part, members, terms.threshold, "shared secrets")
    about = f"{what} {pack(taking_part).hex()}"
    if session.masked and session.masked != about:
        raise SpecError("a node sends one masked vector: a new attempt is needed for another")
    if not session.masked:
        held = dict(session.held)
        for other, one in sealed.items():
            if other == session.node:
                continue
            key = session.keys[other].shares
            shares = opened_shares(session.share_key, key, terms, other, session.node, one)
            if len(shares) != 2 * SHARE_BYTES:
                raise SpecError(f"{other} sealed something else than two shares")
            held[other] = shares
        session = replace(session, held=held, masked=about)
    masks = [_own_mask(session.own_secret, terms, members)]
    for other in taking_part:
        if other != session.node:
            sign = 1 if session.node < other else -1
            masks.append(common_mask(session.mask_key, session.keys[other].masks, terms, members, sign))
    return session, masks


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


def agreed(session: NodeSession, survivors: Collection[str], sign: Sign) -> tuple[NodeSession, bytes]:
    """Return the session, and the node's signature of those whose vectors are added.

    Raises:
        SpecError: they are too few, this node is not among them, or it signed others before.
    """
    chosen = sorted(set(survivors))
    _need(session.masked and session.contribution, "it has masked no vector yet")
    _check_subset(chosen, sorted(session.held), session.terms.threshold, "sent a masked vector")
    if session.node not in chosen:
        raise SpecError("a node agrees to sums that it is part of")
    if session.survivors not in ([], chosen):
        raise SpecError("a node agrees to one sum: a new attempt is needed for another")
    return replace(session, survivors=chosen), sign(survivors_bytes(session.terms, chosen))


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
    chosen = session.survivors
    signed_ = [
        node
        for node, signature in signatures.items()
        if node in chosen and is_signed_by(node, signature, survivors_bytes(session.terms, chosen))
    ]
    if len(signed_) < session.terms.threshold:
        raise SpecError(
            f"{len(signed_)} nodes have agreed to this sum, {session.terms.threshold} are needed: nothing is revealed"
        )
    own_masks = {node: session.held[node][:SHARE_BYTES] for node in chosen}
    mask_keys = {node: shares[SHARE_BYTES:] for node, shares in session.held.items() if node not in chosen}
    return replace(session, revealed=True), own_masks, mask_keys


def survivors_bytes(terms: Terms, survivors: list[str]) -> bytes:
    """Return the bytes by which a node agrees to a sum."""
    return pack(["fedjob secure sum: survivors 1", terms.digest, sorted(survivors)])


def common_mask(own: bytes, other: bytes, terms: Terms, members: list[str], sign: int) -> Mask:
    """Return the mask that two nodes have in common."""
    seed: Callable[[bytes], bytes] = lambda lane: mask_seed(own, other, terms, members, lane)  # noqa: E731
    return Mask(seed(TENSORS), seed(NUMBERS), sign)


def _own_mask(secret: bytes, terms: Terms, members: list[str], sign: int = 1) -> Mask:
    return Mask(self_seed(secret, terms, members, TENSORS), self_seed(secret, terms, members, NUMBERS), sign)


def own_mask_taken_away(secret: bytes, terms: Terms, members: list[str]) -> Mask:
    """Return a node's own mask, as it is taken away from a sum."""
    return _own_mask(secret, terms, members, -1)


def _is_own(keys: SumKeys, session: NodeSession) -> bool:
    fresh = signed_keys(session.terms, session.node, session.share_key, session.mask_key, lambda _: b"")
    return (keys.shares, keys.masks) == (fresh.shares, fresh.masks)


def _check_forfeited(session: NodeSession, keys: Collection[str]) -> None:
    """Refuse an attempt while an earlier one, which this node's vector is in, can still be revealed."""
    for one in session.earlier:
        left = len(set(one.members) - set(keys))
        if left >= one.threshold:
            raise SpecError(
                f"{left} nodes of an earlier attempt are not in this one, and {one.threshold} can reveal that: a node "
                "is in one sum of a contribution"
            )


def _check_subset(chosen: list[str], whole: list[str], threshold: int, what: str) -> None:
    if not set(chosen) <= set(whole):
        raise SpecError(f"{', '.join(sorted(set(chosen) - set(whole)))[:200]} never {what}")
    if len(chosen) < threshold:
        raise SpecError(f"{len(chosen)} nodes {what}, {threshold} are needed: nothing is revealed")


def _need(found: Any, what: str) -> None:
    if not found:
        raise SpecError(f"the node is at another step of this sum: {what}")
