"""The key to which others encrypt what only one party may read: HPKE with ML-KEM-768 and X25519 together.

Hybrid Public Key Encryption, RFC 9180, with the hybrid KEM of draft-ietf-hpke-pq: who records traffic today needs to
break both X25519 and ML-KEM to read it later. A party signs its public half with its Ed25519 key, so that nobody can
put another one in its place.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import make_folder, write_atomic

PUBLIC_BYTES = 1184 + 32
_SEED_BYTES = 64


class SealingKey:
    """A key pair whose private half stays in the party's home."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._parts = (mlkem, x25519)
        self.private_key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public_key_hex = (
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        ).hex()

    def __repr__(self) -> str:
        return f"SealingKey({self.public_key_hex[:12]}...)"  # never the private half

    @classmethod
    def generate(cls) -> SealingKey:
        """Return a fresh key that is not stored."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SealingKey:
        """Read the private half: 192 hex digits, in a file of mode 0600.

        Raises:
            ConfigError: the file is missing, readable by others, or holds something else.
        """
        if not path.is_file():
            raise ConfigError(
                f"{path} is missing, with which this home reads what others encrypt for it: restore it from a backup"
            )
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
        try:
            raw = bytes.fromhex(path.read_text(encoding="ascii").strip())
            return cls(
                MLKEM768PrivateKey.from_seed_bytes(raw[:_SEED_BYTES]),
                X25519PrivateKey.from_private_bytes(raw[_SEED_BYTES:]),
            )
        except ValueError as error:
            raise ConfigError(f"{path} should hold 192 hex digits: restore it from a backup") from error

    def store(self, path: Path) -> None:
        """Write the private half into a file of mode 0600."""
        make_folder(path.parent)
        raw = b"".join(part.private_bytes_raw() for part in self._parts)
        write_atomic(path, raw.hex().encode() + b"\n")


def public_sealing_key(key_hex: str) -> MLKEM768X25519PublicKey:
    """Return the public key for `hpke.Suite.encrypt`.

    Raises:
        SpecError: it is no such key.
    """
    try:
        raw = bytes.fromhex(key_hex)
        if len(raw) != PUBLIC_BYTES or raw.hex() != key_hex:
            raise ValueError
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:-32]), X25519PublicKey.from_public_bytes(raw[-32:])
        )
    except ValueError:
        raise SpecError(
            f"expected a public key for ML-KEM-768 and X25519 as {2 * PUBLIC_BYTES} lower-case hex digits, found "
            f"{len(key_hex)} characters, {key_hex[:40]!r}"
        ) from None
