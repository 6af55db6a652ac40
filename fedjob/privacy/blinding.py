"""Blinded identifiers, by which parties find the ones they share: X25519 of the `cryptography` package.

    blind(a, blind(b, point_of(x))) == blind(b, blind(a, point_of(x)))

Meadows 1986, "A More Efficient Cryptographic Matchmaking Protocol"; Huberman, Franklin, Hogg
1999, "Enhancing Privacy and Trust in Electronic Communities",
https://doi.org/10.1145/336992.337012

All arithmetic on the curve is the library's. This file only decides which hashes represent
identifiers: half of all 32-byte strings are coordinates of Curve25519, the others of its
twist, and blinding keeps a string on its side. If both were used, everybody could tell of each
blinded identifier on which side it lies, which halves the candidates for it. Therefore
the first hash that lies on the curve is used, by Euler's criterion on its equation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

POINT_BYTES = 32

_PRIME = 2**255 - 19
_A = 486662
_DOMAIN = b"fedjob private set intersection 1\0"


def new_key() -> bytes:
    """Return a fresh random key of 32 bytes. It is secret: with it, guessed identifiers can be checked."""
    return X25519PrivateKey.generate().private_bytes_raw()


def point_of(identifier: str) -> bytes:
    """Return the curve point of an identifier, equal at all parties; its logarithm is unknown."""
    name = identifier.encode()
    counter = 0
    while True:
        digest = hashlib.sha512(_DOMAIN + counter.to_bytes(2, "big") + name).digest()
        x = int.from_bytes(digest, "big") % _PRIME
        if pow(x * (x * (x + _A) + 1), (_PRIME - 1) // 2, _PRIME) == 1:
            return x.to_bytes(POINT_BYTES, "little")
        counter += 1


def blind(key: bytes, points: Iterable[bytes]) -> Iterator[bytes]:
    """Yield points multiplied with a key, in their order.

    Raises:
        ValueError: a point is not 32 bytes long, or is one of small order, which keys do not blind.
    """
    secret = X25519PrivateKey.from_private_bytes(key)
    for point in points:
        yield secret.exchange(X25519PublicKey.from_public_bytes(point))


def joined(points: Iterable[bytes]) -> bytes:
    """Return the points concatenated."""
    return b"".join(points)


def divided(data: bytes) -> list[bytes]:
    """Return the points of which `data` is the concatenation.

    Raises:
        ValueError: the length is not a multiple of a point's.
    """
    if len(data) % POINT_BYTES:
        raise ValueError(f"expected points of {POINT_BYTES} bytes, found {len(data)} bytes")
    return [data[place : place + POINT_BYTES] for place in range(0, len(data), POINT_BYTES)]
