"""The identity of a party: two key pairs whose private halves never leave the party's home.

The folder holds three files: `ed25519`, the private key that signs, as 64 hex digits with
mode 0600; `mlkem768-x25519`, the one that opens what others encrypt for this party, see
`sealing_key`; and `party`, the name that both belong to. The roster gives the public halves
to the other parties.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.files import fsync_dir, make_folder, write_atomic
from fedjob.common.types import check_party
from fedjob.identity.seals.sealing_key import SealingKey, public_sealing_key

SIGNATURE_BYTES = 64
SEALING_NAME = "mlkem768-x25519"
_HEX32 = re.compile(r"[0-9a-f]{64}")
_BINDING = b"fedjob sealing key 1\n"


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The public halves of a party's keys, in hex.

    Args:
        signing: Ed25519.
        sealing: ML-KEM-768 and X25519, see `sealing_key`.
        binding: the signature by which the first says that the second belongs to it.
    """

    signing: str
    sealing: str
    binding: str

    def check(self, party: str) -> PublicKeys:
        """Return itself if a party may enrol with these keys.

        Raises:
            SpecError: a key is malformed, or the second is not signed with the first.
        """
        if not _HEX32.fullmatch(self.signing):
            raise SpecError(
                f"expected a public Ed25519 key as 64 lower-case hex digits, found {self.signing[:80]!r}"
            )
        public_sealing_key(self.sealing)
        if not is_bound(party, self.signing, self.sealing, self.binding):
            raise SpecError(
                f"expected the sealing key of {party!r} signed with its Ed25519 key, found another signature"
            )
        return self


class Identity:
    """A party's name, its key to sign with, and its key to be written to.

    Args:
        sealing: None makes one.
    """

    def __init__(self, party: str, key: Ed25519PrivateKey, sealing: SealingKey | None = None) -> None:
        self.party = check_party(party)
        self._key = key
        self.public_key_hex = key.public_key().public_bytes_raw().hex()
        self.sealing = sealing or SealingKey.generate()

    def __repr__(self) -> str:
        return f"Identity({self.party!r}, {self.public_key_hex[:12]}...)"  # never the private half

    @classmethod
    def generate(cls, party: str) -> Identity:
        """Return an identity with a fresh key that is not stored."""
        return cls(party, Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(
        cls, folder: Path, party: str | None = None, *, key: Path | None = None, is_enrolled: bool = True
    ) -> Identity:
        """Return the identity stored in `folder`, which is made on first use.

        Args:
            folder: `home/"keys"`.
            party: the expected name; may be left out once it is stored.
            key: file of a private key to use; it is copied into `folder`. None makes one.
            is_enrolled: False where no hub has accepted what is stored: it then takes the name and the key that are given.

        Raises:
            ConfigError: no name is known, another name or key is stored, or a key file is unusable.
        """
        key_path, party_path = folder / "ed25519", folder / "party"
        stored = party_path.read_text(encoding="utf-8").strip() if party_path.exists() else None
        if stored is not None and party is not None and not is_enrolled and party != stored:
            check_party(party)
            write_atomic(party_path, party.encode() + b"\n")
            stored = party
        if key is not None and not is_enrolled and key_path.exists():
            write_atomic(key_path, _read_key(key).private_bytes_raw().hex().encode() + b"\n")
        name = stored or party
        if name is None:
            raise ConfigError(f"no identity in {folder}: run `fedjob init` or `fedjob node init` with --id")
        if party is not None and party != name:
            raise ConfigError(f"{folder} holds the identity of {name!r}, not {party!r}: use another --home")
        check_party(name)
        if not key_path.exists():
            if stored is not None:
                raise ConfigError(
                    f"{key_path} is missing although {name!r} lives here: restore it from a backup, or "
                    f"remove {folder} and enrol again under another name"
                )
            make_folder(folder)
            fresh = Ed25519PrivateKey.generate() if key is None else _read_key(key)
            write_atomic(key_path, fresh.private_bytes_raw().hex().encode() + b"\n")
        own = _read_key(key_path)
        if stored is None and not (folder / SEALING_NAME).exists():
            SealingKey.generate().store(folder / SEALING_NAME)
        sealing = SealingKey.load(folder / SEALING_NAME)
        if key is not None and _read_key(key).public_key() != own.public_key():
            raise ConfigError(f"{folder} holds another key than {key}: use another --home")
        if stored is None:
            # Written after the keys, so that a name without a key means that the key was lost.
            write_atomic(party_path, name.encode() + b"\n")
        return cls(name, own, sealing)

    @property
    def public_keys(self) -> PublicKeys:
        """The keys that others need, the second signed with the first."""
        sealing = self.sealing.public_key_hex
        binding = self.sign(_bound(self.party, sealing)).hex()
        return PublicKeys(self.public_key_hex, sealing, binding)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature of `data`."""
        return self._key.sign(data)


def load_or_create_secret(path: Path) -> bytes:
    """Return the 32 secret bytes of a file in a home's `keys`, which are made on first use.

    Of several processes that make them at once one wins, and all return the same.

    Raises:
        ConfigError: others may read the file, or it holds no 64 hex digits.
    """
    if not path.exists():
        make_folder(path.parent)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_atomic(fresh, secrets.token_bytes(32).hex().encode() + b"\n")
        with suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
        fsync_dir(path.parent)
    return _read_key(path).private_bytes_raw()


class SealKey:
    """The key with which a home signs files of its own that may travel, such as breakpoints.

    It is made on first use, belongs to the home whether it is enrolled anywhere or not, and never leaves it.

    Args:
        home: its key lies in `keys/seal`.
    """

    def __init__(self, home: Path) -> None:
        secret = load_or_create_secret(home / "keys" / "seal")
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public_key_hex = self._key.public_key().public_bytes_raw().hex()

    @classmethod
    def public_of(cls, home: Path) -> str:
        """Return the public key of a home in hex; empty for one that has signed nothing yet."""
        return cls(home).public_key_hex if (home / "keys" / "seal").exists() else ""

    def __repr__(self) -> str:
        return f"SealKey({self.public_key_hex[:12]}...)"

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature of `data`."""
        return self._key.sign(data)


def is_bound(party: str, signing: str, sealing: str, binding: str) -> bool:
    """Return whether the owner of an Ed25519 key says that a sealing key is the party's own."""
    try:
        return verify(signing, bytes.fromhex(binding), _bound(party, sealing))
    except ValueError:
        return False


def _bound(party: str, sealing: str) -> bytes:
    return _BINDING + f"{party}\n{sealing}".encode()


def verify(key_hex: str, signature: bytes, data: bytes) -> bool:
    """Return whether the owner of the public key `key_hex` signed exactly `data`."""
    try:
        _public_key(key_hex).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=16_384)
def _public_key(key_hex: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_hex))


def _read_key(path: Path) -> Ed25519PrivateKey:
    if not path.is_file():
        raise ConfigError(
            f"there is no key file {path}: expected 64 hex digits, as in keys/ed25519 of a home"
        )
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except ValueError as error:
        raise ConfigError(f"{path} should hold 64 hex digits: restore it from a backup") from error
