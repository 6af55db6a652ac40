"""Heads of the audit chains of nodes: signed by their nodes, and held by others as evidence against rewriting.

A head is number and hash of a chain's newest record. Each record's hash covers all records
before it, so a head that somebody else holds fixes the whole chain up to that record
(Haber and Stornetta, How to time-stamp a digital document, 1991). A head that is held is one
line of JSON, and shows to third parties what the node signed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from fedjob.common.errors import DecodeError
from fedjob.identity.keys import Identity, verify

MAX_NUMBER = 1 << 53
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The newest record of a node's audit chain, as its replies carry it.

    Args:
        seq: number of the record, from 1; 0 for a chain without records.
        hash: of the record, 64 hex digits.
        signature: of the node, over its federation, its name, `seq` and `hash`; 128 hex digits.
    """

    seq: int
    hash: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldHead:
    """A head of a node's audit chain in the hands of somebody else.

    Args:
        node: whose chain it is.
        key: the node's public key in hex.
        about: the kind of question that was answered with it, `offer` or `task`.
        round: of the job, from 1; 0 where it is about none.
        received: seconds since 1970.
        asked_at: number of the newest head of that node that its holder knew when they asked.
    """

    node: str
    federation: str
    key: str
    seq: int
    hash: str
    signature: str
    about: str = ""
    round: int = 0
    received: float = 0.0
    asked_at: int = 0

    @property
    def is_signed(self) -> bool:
        """True if the owner of `key` signed it, and nothing was changed since."""
        if not (0 <= self.seq <= MAX_NUMBER and _HASH.fullmatch(self.hash)):
            return False
        if not _SIGNATURE.fullmatch(self.signature):
            return False
        text = _signed_text(self.federation, self.node, self.seq, self.hash)
        return verify(self.key, bytes.fromhex(self.signature), text)

    def to_line(self) -> str:
        """Return it as one line of JSON, without its end."""
        return json.dumps({"v": 1, **{name: getattr(self, name) for name in _FIELDS}}, separators=(",", ":"))


_TYPES: dict[str, type | tuple[type, ...]] = {
    "seq": int,
    "round": int,
    "asked_at": int,
    "received": (int, float),
}
_FIELDS = tuple(f.name for f in fields(HeldHead))


def read_held_head(line: str | bytes) -> HeldHead:
    """Return the head that a line holds.

    Raises:
        DecodeError: it holds none.
    """
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError(
            f"expected a head of an audit log as a line of JSON, found {line[:80]!r}"
        ) from error
    if not isinstance(found, dict) or found.get("v") != 1:
        raise DecodeError(f'expected a head of an audit log with "v": 1, found {line[:80]!r}')
    for name in _FIELDS:
        expected = _TYPES.get(name, str)
        if not isinstance(found.get(name), expected) or isinstance(found[name], bool):
            raise DecodeError(
                f"a head of an audit log lacks {name!r}, or it is of another kind: {line[:80]!r}"
            )
    return HeldHead(**{name: found[name] for name in _FIELDS})


class HeadSigner:
    """The signer of the heads of a node's own chain; one record is signed once.

    Args:
        newest: returns number and hash of the chain's newest record.
    """

    def __init__(self, identity: Identity, federation: str, newest: Callable[[], tuple[int, str]]) -> None:
        self._identity = identity
        self._federation = federation
        self._newest = newest
        self._last = AuditHead(seq=-1, hash="", signature="")

    def __call__(self) -> AuditHead:
        """Return the present head, signed."""
        seq, hash_ = self._newest()
        if (seq, hash_) != (self._last.seq, self._last.hash):
            text = _signed_text(self._federation, self._identity.party, seq, hash_)
            self._last = AuditHead(seq=seq, hash=hash_, signature=self._identity.sign(text).hex())
        return self._last


def _signed_text(federation: str, node: str, seq: int, hash_: str) -> bytes:
    fields = json.dumps([federation, node, seq, hash_], separators=(",", ":"))
    return b"fedjob audit head\0" + fields.encode("utf-8", "surrogatepass")
