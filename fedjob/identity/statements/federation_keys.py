"""The public keys of a federation: who may sign its roster, and how many of them it takes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import ConfigError, DecodeError, SpecError
from fedjob.identity.statements.signed import Signed, canonical, content_of

KEYS_KIND = "fedjob federation keys 1"
MAX_KEYS = 16
MAX_FILE_BYTES = 64 << 10

_FEDERATION = re.compile(r"fed_[0-9a-f]{16}")
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,62}")


@dataclass(frozen=True, slots=True)
class FederationKeys:
    """The keys that sign a federation's roster.

    Args:
        federation: its id, `fed_` and 16 hex digits.
        name: for people.
        number: 1, and one more with each change of the keys.
        keys: public Ed25519 keys in hex, sorted.
        threshold: how many of them have to sign.
        contact: whom to ask for a signature, for people; may be empty.
    """

    federation: str
    name: str
    number: int
    keys: tuple[str, ...]
    threshold: int
    contact: str = ""

    def check(self) -> FederationKeys:
        """Return itself if a federation may have such keys.

        Raises:
            SpecError: it may not; the message says why.
        """
        if not _FEDERATION.fullmatch(self.federation):
            raise SpecError(
                f"expected a federation's id, fed_ and 16 hex digits, found {self.federation[:80]!r}"
            )
        if not _NAME.fullmatch(self.name):
            raise SpecError(
                f"expected a federation's name of letters, digits, spaces, - _ and ., found {self.name[:80]!r}"
            )
        if not (1 <= len(self.keys) <= MAX_KEYS and all(_KEY.fullmatch(key) for key in self.keys)):
            raise SpecError(f"expected 1 to {MAX_KEYS} public keys of 64 hex digits, found {len(self.keys)}")
        if list(self.keys) != sorted(set(self.keys)):
            raise SpecError("expected the federation's keys sorted, each once")
        if type(self.threshold) is not int or not 1 <= self.threshold <= len(self.keys):
            raise SpecError(f"expected a threshold of 1 to {len(self.keys)} keys, found {self.threshold}")
        if type(self.number) is not int or not 1 <= self.number < 1 << 31:
            raise SpecError(f"expected the keys' number from 1 on, found {self.number}")
        if len(self.contact) > 200 or not self.contact.isprintable():
            raise SpecError("expected a contact of at most 200 printable characters")
        return self

    @property
    def fingerprint(self) -> str:
        """32 hex digits in groups of four, to compare over the telephone; of the keys and the threshold."""
        content = canonical(
            {"federation": self.federation, "keys": list(self.keys), "threshold": self.threshold}
        )
        digest = hashlib.sha256(b"fedjob federation fingerprint 1\n" + content).hexdigest()[:32]
        return " ".join(digest[at : at + 4] for at in range(0, 32, 4))

    @property
    def signer(self) -> str:
        """Whom to ask for a signature, in words."""
        return self.contact or f"who coordinates {self.name}"

    def to_plain(self) -> dict[str, Any]:
        """Return the keys as plain data."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def of_plain(cls, plain: Any) -> FederationKeys:
        """Read what `to_plain` gave.

        Raises:
            DecodeError: it is malformed.
        """
        try:
            return from_plain(cls, plain).check()
        except SpecError as error:
            raise DecodeError(str(error)) from error

    def dump(self) -> bytes:
        """Return the content of a `.federation` file."""
        return json.dumps(self.to_plain(), indent=2).encode() + b"\n"

    @classmethod
    def load(cls, path: Path) -> FederationKeys:
        """Read a `.federation` file.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        try:
            with path.open("rb") as file:
                return cls.of_plain(json.loads(file.read(MAX_FILE_BYTES)))
        except (OSError, ValueError, DecodeError) as error:
            raise ConfigError(
                f"expected the public half of a federation, as `fedjob federation create` writes it, in {path}: {error}"
            ) from error

    def statement(self) -> Signed:
        """Return the statement that these are the keys from now on, unsigned."""
        return Signed(KEYS_KIND, canonical(self.to_plain()))

    def followed_by(self, signed: Signed) -> FederationKeys:
        """Return the keys that a statement puts in the place of these.

        Raises:
            DecodeError: it is malformed, of another federation or number, or too few of these keys, or of its own,
                signed it.
        """
        new = FederationKeys.of_plain(content_of(signed))
        if new.federation != self.federation or new.number != self.number + 1:
            raise DecodeError(
                f"expected keys {self.number + 1} of {self.federation}, found keys {new.number} of {new.federation}"
            )
        for keys, whose in ((self, "the keys before"), (new, "the new keys")):
            if (found := len(signed.signers(keys.keys))) < keys.threshold:
                raise DecodeError(
                    f"the change of the federation's keys is signed by {found} of {whose}, it takes {keys.threshold}"
                )
        return new


def fingerprint_of(key_hex: str) -> str:
    """Return a party's public key as people compare it: its first 16 hex digits, in groups of four."""
    return " ".join(key_hex[at : at + 4] for at in range(0, 16, 4))
