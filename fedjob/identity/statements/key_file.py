"""A federation's private key in a file: Ed25519, PKCS #8, encrypted with a passphrase.

It stays off the machines of hub, nodes and researchers: whoever has it and its passphrase says who belongs to the
federation.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import make_folder, write_atomic

MIN_PASSPHRASE = 10
_MAX_BYTES = 16 << 10


class FederationKey:
    """One of the private keys of a federation, in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_hex = key.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"FederationKey({self.public_hex[:12]}...)"  # never the private half

    @classmethod
    def generate(cls) -> FederationKey:
        """Return a fresh key that is not stored."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: str) -> FederationKey:
        """Read an encrypted key.

        Raises:
            ConfigError: there is no such file, others may read it, the passphrase is wrong, or it is something else.
        """
        try:
            mode = path.stat().st_mode & 0o777
            content = path.read_bytes()[:_MAX_BYTES]
        except OSError as error:
            raise ConfigError(
                f"expected a federation's key, as `fedjob federation create` writes it, in {path}: {error.strerror}"
            ) from error
        if mode & 0o077:
            raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
        if b"ENCRYPTED PRIVATE KEY" not in content:
            raise ConfigError(f"expected an encrypted key in {path}, as `fedjob federation create` writes it")
        try:
            key = load_pem_private_key(content, passphrase.encode())
        except ValueError as error:
            raise ConfigError(
                f"the passphrase does not open {path}: try again, or the file is damaged"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"expected an Ed25519 key in {path}, found another kind")
        return cls(key)

    def store(self, path: Path, passphrase: str) -> None:
        """Write the key, encrypted, into a new file of mode 0600.

        Raises:
            SpecError: the passphrase is too short.
            ConfigError: the file is there already.
        """
        if len(passphrase) < MIN_PASSPHRASE:
            raise SpecError(
                f"expected a passphrase of {MIN_PASSPHRASE} characters or more, found {len(passphrase)}"
            )
        if path.exists():
            raise ConfigError(f"{path} is there already and is not overwritten: give another name or folder")
        make_folder(path.parent)
        encryption = BestAvailableEncryption(passphrase.encode())
        write_atomic(path, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature of `data`."""
        return self._key.sign(data)
