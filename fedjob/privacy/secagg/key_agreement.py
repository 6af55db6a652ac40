"""The keys of one secure sum: fresh for every attempt, signed by the node's key in the roster.

Each node has two X25519 key pairs. With one it agrees with every other node on a key for the shares that it sends there, with
the other on the seed of the mask that the two have in common. The researcher passes the public halves on and could exchange
them for keys of its own; therefore each node checks the signatures against the roster that it has pinned itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.privacy.secagg.mask_stream import derived
from fedjob.privacy.secagg.terms import Terms

PUBLIC_BYTES = 32

Sign = Callable[[bytes], bytes]
"""Sign with the node's own key of the roster."""

IsSignedBy = Callable[[str, bytes, bytes], bool]
"""Tell whether a node of the roster, by name, made a signature of these bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumKeys:
    """A node's public keys for one secure sum, with its signature.

    Args:
        lot: sha256 of the number by which the node has a part in drawing who is whose neighbour.
    """

    node: str
    shares: bytes
    masks: bytes
    lot: bytes
    signature: bytes

    def signed_bytes(self, terms: Terms) -> bytes:
        """Return the bytes that the signature is of."""
        about = [terms.digest, self.node, self.shares, self.masks, self.lot]
        return pack(["fedjob secure sum: keys 2", *about])


def signed_keys(terms: Terms, node: str, shares: bytes, masks: bytes, lot: bytes, sign: Sign) -> SumKeys:
    """Return a node's public halves of two private keys, and what commits it to its lot, signed."""
    unsigned = SumKeys(
        node=node,
        shares=_public(shares),
        masks=_public(masks),
        lot=lot_digest(lot, terms, node),
        signature=b"",
    )
    return replace(unsigned, signature=sign(unsigned.signed_bytes(terms)))


def lot_digest(lot: bytes, terms: Terms, node: str) -> bytes:
    """Return the hash that commits a node to its lot."""
    return derived(lot, b"lot", terms.digest, node.encode())


def keys_digest(keys: Mapping[str, SumKeys], terms: Terms) -> bytes:
    """Return the sha256 of the terms and of everybody's keys."""
    about = [[one.node, one.shares, one.masks, one.lot] for _, one in sorted(keys.items())]
    return hashlib.sha256(pack([terms.digest, about])).digest()


def check_keys(keys: Mapping[str, SumKeys], terms: Terms, is_signed_by: IsSignedBy) -> None:
    """Check everybody's public keys.

    Raises:
        SpecError: a key is not signed by its node, or two nodes have the same.
    """
    for node, one in keys.items():
        odd = node != one.node or {len(one.shares), len(one.masks), len(one.lot)} != {PUBLIC_BYTES}
        if odd or not is_signed_by(node, one.signature, one.signed_bytes(terms)):
            raise SpecError(f"the keys of {node[:63]} are not signed by the key that the roster has for it")
    if len({key for one in keys.values() for key in (one.shares, one.masks)}) < 2 * len(keys):
        raise SpecError("two nodes have the same key")


def private_key() -> bytes:
    """Return a fresh X25519 private key of 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def matches(private: bytes, public: bytes) -> bool:
    """Return whether two halves belong together."""
    return _public(private) == public


def mask_seed(own: bytes, other: bytes, terms: Terms, graph: bytes, lane: bytes) -> bytes:
    """Return the seed of the mask that two nodes have in common.

    It depends on the terms and on everybody who takes part, so that nodes that were given other lists share no mask.

    Args:
        own: a private key; `other` the other node's public one.
        graph: digest of who takes part, and of who is whose neighbour.
        lane: what is masked with it.
    """
    return derived(_agreed(own, other), b"mask", terms.digest, graph, lane)


def self_seed(secret: bytes, terms: Terms, graph: bytes, lane: bytes) -> bytes:
    """Return the seed of a node's own mask."""
    return derived(secret, b"self", terms.digest, graph, lane)


def sealed_shares(own: bytes, other: bytes, terms: Terms, sender: str, reader: str, shares: bytes) -> bytes:
    """Return shares for one node, which nobody else can read."""
    key = _share_key(own, other, terms, sender, reader)
    return AESGCM(key).encrypt(bytes(12), shares, terms.digest)  # the key is used for this alone


def opened_shares(own: bytes, other: bytes, terms: Terms, sender: str, reader: str, sealed: bytes) -> bytes:
    """Return the shares that another node sealed for this one.

    Raises:
        DecodeError: it did not.
    """
    key = _share_key(own, other, terms, sender, reader)
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, terms.digest)
    except InvalidTag as error:
        raise DecodeError(f"what came as the shares of {sender} was not sealed by it for {reader}") from error


def read_keys(plain: Any) -> dict[str, SumKeys]:
    """Return the public keys in a message, by node.

    Raises:
        MessageError: it is something else.
    """
    found = [from_plain(SumKeys, one) for one in plain]
    return {one.node: one for one in found}


def plain_keys(keys: Mapping[str, SumKeys]) -> list[dict[str, Any]]:
    """Return public keys as a message has them, in the order of their nodes."""
    return [to_plain(keys[node]) for node in sorted(keys)]


def _share_key(own: bytes, other: bytes, terms: Terms, sender: str, reader: str) -> bytes:
    return derived(_agreed(own, other), b"shares", terms.digest, sender.encode(), reader.encode())


def _agreed(own: bytes, other: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(own).exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # a point of small order
        raise SpecError("a node's key is one that agrees on nothing") from error


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
