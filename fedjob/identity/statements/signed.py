"""A signed statement: bytes, and signatures over exactly these bytes in a context of their own.

Dead Simple Signing Envelope (DSSE) in spirit: what is signed is what was sent, never a form made anew of it, and a
signature for one kind of statement is none for another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from fedjob.common.errors import DecodeError
from fedjob.identity.keys import verify

MAX_STATEMENT_BYTES = 32 << 20
"""Of a statement and its signatures: a roster of 5,000 parties has 14 MB."""

MAX_SIGNATURES = 32


@dataclass(frozen=True, slots=True)
class KeySignature:
    """One signature.

    Args:
        key: the public Ed25519 key in hex.
        signature: 64 bytes in hex.
    """

    key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement and its signatures.

    Args:
        kind: what it is about; signatures are over `kind`, a line end, and `payload`.
        payload: canonical JSON, see `canonical`.
    """

    kind: str
    payload: bytes
    signatures: tuple[KeySignature, ...] = ()

    def signed_by(self, key: str, sign: Callable[[bytes], bytes]) -> Signed:
        """Return the statement with one more signature; the same where the key has signed already."""
        if any(each.key == key for each in self.signatures):
            return self
        made = KeySignature(key, sign(self._signed_bytes).hex())
        return replace(self, signatures=(*self.signatures, made))

    def signers(self, keys: Collection[str]) -> list[str]:
        """Return those of `keys`, each once, that signed exactly these bytes."""
        return sorted({each.key for each in self.signatures if each.key in keys and self._holds(each)})

    @property
    def _signed_bytes(self) -> bytes:
        return self.kind.encode() + b"\n" + self.payload

    def _holds(self, signature: KeySignature) -> bool:
        try:
            return verify(signature.key, bytes.fromhex(signature.signature), self._signed_bytes)
        except ValueError:
            return False

    def dump(self) -> bytes:
        """Return the statement as JSON; it is read back by `load` with the same bytes in `payload`."""
        return json.dumps(self.to_plain()).encode()

    def to_plain(self) -> dict[str, Any]:
        """Return the statement as plain data for JSON."""
        return {
            "kind": self.kind,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [{"key": each.key, "signature": each.signature} for each in self.signatures],
        }

    @classmethod
    def load(cls, data: bytes, kind: str) -> Signed:
        """Read what `dump` wrote.

        Raises:
            DecodeError: it is malformed, too long, or of another kind.
        """
        if len(data) > MAX_STATEMENT_BYTES:
            raise DecodeError(f"expected a {kind} of at most {MAX_STATEMENT_BYTES} bytes, found {len(data)}")
        try:
            return cls.of_plain(json.loads(data), kind)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"expected a {kind}, found {data[:80]!r}") from error

    @classmethod
    def of_plain(cls, plain: Any, kind: str) -> Signed:
        """Read what `to_plain` gave.

        Raises:
            DecodeError: it is malformed, or of another kind.
        """
        match plain:
            case {"kind": str(found), "payload": str(payload), "signatures": list(rows)}:
                if found != kind:
                    raise DecodeError(f"expected a {kind}, found a {found[:80]!r}")
                if len(rows) > MAX_SIGNATURES:
                    raise DecodeError(f"expected at most {MAX_SIGNATURES} signatures, found {len(rows)}")
                try:
                    content = base64.b64decode(payload, validate=True)
                except ValueError as error:
                    raise DecodeError(f"expected the payload of a {kind} as base64: {error}") from error
                return cls(kind, content, tuple(_signature(row) for row in rows))
        raise DecodeError(f"expected a {kind} with kind, payload and signatures, found {str(plain)[:80]!r}")


def _signature(row: Any) -> KeySignature:
    match row:
        case {"key": str(key), "signature": str(signature)} if len(key) == 64 and len(signature) == 128:
            return KeySignature(key, signature)
    raise DecodeError("expected signatures as a key of 64 and a signature of 128 hex digits")


def canonical(value: dict[str, Any]) -> bytes:
    """Return plain data as the one JSON that means it: keys sorted, no spaces, ASCII only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def content_of(signed: Signed) -> dict[str, Any]:
    """Return what a statement says.

    Raises:
        DecodeError: it is no map, or not in the canonical form.
    """
    try:
        found = json.loads(signed.payload)
        if isinstance(found, dict) and canonical(found) == signed.payload:
            return found
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"expected a {signed.kind} as JSON: {error}") from error
    raise DecodeError(f"expected a {signed.kind} as canonical JSON, found {signed.payload[:80]!r}")
