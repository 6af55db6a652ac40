"""The encryption of small bytes for one party: Hybrid Public Key Encryption with ML-KEM-768 and X25519 together.

RFC 9180 in its base mode, with HKDF-SHA-256 and AES-256-GCM; for the key pairs see `sealing_key`. It does not say who
encrypted: that is for a signature over the encrypted bytes.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

from fedjob.common.errors import DecodeError
from fedjob.identity.seals.sealing_key import SealingKey, public_sealing_key

OVERHEAD_BYTES = 1136
"""By which the encrypted bytes are longer."""

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def encrypt_for(key_hex: str, data: bytes, info: bytes) -> bytes:
    """Return bytes that only the holder of a key can read.

    Args:
        key_hex: the public half, as the roster has it.
        info: what both sides know of these bytes; with other words they can't be decrypted.

    Raises:
        SpecError: it is no such key.
    """
    return _SUITE.encrypt(data, _public_key(key_hex), info)


def decrypt(key: SealingKey, sealed: bytes, info: bytes) -> bytes:
    """Return what `encrypt_for` encrypted for this key.

    Raises:
        DecodeError: it was changed, or is for another key or with another `info`.
    """
    try:
        return _SUITE.decrypt(sealed, key.private_key, info)
    except (InvalidTag, ValueError) as error:
        raise DecodeError(
            f"{len(sealed)} bytes can't be decrypted with this home's key: they were changed, or are for another key"
        ) from error


@lru_cache(maxsize=4096)
def _public_key(key_hex: str) -> MLKEM768X25519PublicKey:
    return public_sealing_key(key_hex)
