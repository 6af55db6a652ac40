"""Shares of a secret, of which any `threshold` give it back and fewer say nothing.

Shamir 1979, "How to Share a Secret", https://doi.org/10.1145/359168.359176

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)    over the field of PRIME elements, a_i uniform
    share of party i = f(i),  i = 1, 2, ...
    secret = sum_i f(i) prod_(j != i) j / (j - i)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from fedjob.common.errors import DecodeError

PRIME = 2**256 + 297
"""The smallest prime above all secrets of 32 bytes."""

SECRET_BYTES = 32
SHARE_BYTES = 33


def divided(secret: bytes, threshold: int, places: Sequence[int]) -> list[bytes]:
    """Divide a secret of 32 bytes; return the shares of parties, 33 bytes each.

    Args:
        places: the numbers of the parties, from 1.

    The coefficients come from the operating system, so that two calls give different shares.
    """
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = []
    for place in places:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def combined(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of `threshold` shares; what more or others give is some other 32 bytes.

    Args:
        shares: party, from 1 -> its share.

    Raises:
        DecodeError: a share is none, or they are not of one secret of 32 bytes.
    """
    values = {place: int.from_bytes(share, "big") for place, share in shares.items()}
    if any(len(share) != SHARE_BYTES for share in shares.values()) or any(
        v >= PRIME for v in values.values()
    ):
        raise DecodeError(f"a share of a secret is {SHARE_BYTES} bytes, below the field's prime")
    secret = 0
    for place, value in values.items():
        above = below = 1
        for other in values:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise DecodeError("these shares are not of one secret")
    return secret.to_bytes(SECRET_BYTES, "big")
