"""The audit log of a node: a chain of records, one for each change of a grant or a task.

Each record's hash covers the record and the hash before it; the newest is noted
beside the chain. It is written in the transaction of the change that it records,
so neither exists without the other. Whoever can write the node's files can forge
a chain from some record on. Therefore every reply of the node carries the head of
the chain, signed, and researchers keep it (`identity/audit_heads.py`): `check_chain`
finds what was changed before any head that somebody holds.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedjob.common.errors import AuditBroken, SpecError
from fedjob.identity.audit_heads import HeldHead
from fedjob.node.storage.database import Database

FIRST = "0" * 64
"""The hash that the first record follows."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record of the chain.

    Args:
        at: seconds since 1970.
        kind: `grant`, `task` or another word for what changed.
        subject: its id.
        body: canonical JSON.
        hash: of this record and the one before it.
    """

    seq: int
    at: float
    kind: str
    subject: str
    body: str
    hash: str

    def to_plain(self) -> dict[str, Any]:
        """Return it with its body read."""
        return {
            "seq": self.seq,
            "at": self.at,
            "kind": self.kind,
            "subject": self.subject,
            "body": json.loads(self.body),
            "hash": self.hash,
        }


def record_of(plain: Mapping[str, Any]) -> AuditRecord:
    """Return the record of what `AuditRecord.to_plain` gave.

    Raises:
        AuditBroken: it is none.
    """
    try:
        return AuditRecord(
            seq=int(plain["seq"]),
            at=float(plain["at"]),
            kind=str(plain["kind"]),
            subject=str(plain["subject"]),
            body=_text_of(plain["body"]),
            hash=str(plain["hash"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AuditBroken(f"expected a record of an audit log, found {str(plain)[:80]!r}") from error


def check_head_hash(text: str) -> str:
    """Return `text` if it is the hash of a record.

    Raises:
        SpecError: it is no hash.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise SpecError(
            f"expected a head as `fedjob node audit verify` prints it, 64 hex digits, found {text[:80]!r}"
        )
    return text


def check_chain(
    records: Iterable[AuditRecord], *, heads: Iterable[HeldHead] = (), hashes: Collection[str] = ()
) -> tuple[int, str]:
    """Recompute a chain and return number and hash of its newest record.

    Args:
        records: oldest first.
        heads: of this chain, that others hold; every record up to the newest of them must be the one it was then.
        hashes: of records that have to be in the chain.

    Raises:
        AuditBroken: a record was changed, removed or put in, or the chain was written anew; the record is named.
    """
    seq, before, wanted = 0, FIRST, set(hashes) - {FIRST}
    held: dict[int, list[HeldHead]] = {}
    for head in heads:
        held.setdefault(head.seq, []).append(head)
    _compare(FIRST, held.pop(0, ()))
    for record in records:
        if record.seq != seq + 1:
            raise AuditBroken(
                f"audit record {seq + 1} is missing: record {record.seq} follows {seq or 'the beginning'}"
            )
        seq = record.seq
        if record.hash != hash_record(before, seq, record.at, record.kind, record.subject, record.body):
            raise AuditBroken(
                f"audit record {seq} ({record.kind} {record.subject[:40]}) does not fit to the one before "
                "it: it was changed, put in, or the one before it was"
            )
        before = record.hash
        _compare(before, held.pop(seq, ()))
        wanted.discard(before)
    if held:
        newest = held[max(held)][0]
        raise AuditBroken(
            f"audit record {seq + 1} is missing: the chain has {seq} records, and the head of record {newest.seq} "
            f"was given away on {_day(newest)}: it was cut off, or began anew"
        )
    if wanted:
        raise AuditBroken(
            f"no audit record has the hash {min(wanted)[:16]}...: the chain was written anew, or it is another one"
        )
    return seq, before


def _compare(hash_: str, heads: Iterable[HeldHead]) -> None:
    for head in heads:
        if head.hash != hash_:
            raise AuditBroken(
                f"audit record {head.seq} is not the one whose head was given away on {_day(head)} "
                f"({head.hash[:16]}..., now {hash_[:16]}...): the chain was written anew from it or an earlier one on"
            )


def _day(head: HeldHead) -> str:
    try:
        return datetime.fromtimestamp(head.received, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "an unknown day"


class Audit:
    """The chain, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
        """Append a record; part of the caller's transaction."""
        text = _text_of(dict(body))
        with self._database.transaction():
            seq, before = self.head()
            at = round(time.time(), 6)
            hash_ = hash_record(before, seq + 1, at, kind, subject, text)
            self._database.execute(
                "INSERT INTO audit (seq, at, kind, subject, body, hash) VALUES (?, ?, ?, ?, ?, ?)",
                (seq + 1, at, kind, subject, text, hash_),
            )
            self._database.execute("INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?)", (seq + 1, hash_))

    def head(self) -> tuple[int, str]:
        """Return number and hash of the newest record."""
        row = self._database.row("SELECT seq, hash FROM audit_head")
        return (0, FIRST) if row is None else (int(row["seq"]), str(row["hash"]))

    def records(self, since: int = 0) -> Iterator[AuditRecord]:
        """Yield the records after `since`, oldest first."""
        for row in self._database.execute("SELECT * FROM audit WHERE seq > ? ORDER BY seq", (since,)):
            yield AuditRecord(row["seq"], row["at"], row["kind"], row["subject"], row["body"], row["hash"])

    def of_subject(self, subject: str, limit: int = 500) -> list[AuditRecord]:
        """Return the records about one subject, oldest first; of too many the newest."""
        rows = self._database.rows(
            "SELECT * FROM audit WHERE subject = ? ORDER BY seq DESC LIMIT ?", (subject, limit)
        )
        return [
            AuditRecord(row["seq"], row["at"], row["kind"], row["subject"], row["body"], row["hash"])
            for row in reversed(rows)
        ]

    def verify(self, *, heads: Iterable[HeldHead] = (), hashes: Collection[str] = ()) -> int:
        """Recompute the chain; return the number of its records. For the arguments and errors see `check_chain`."""
        seq, newest = check_chain(self.records(), heads=heads, hashes=hashes)
        noted, hash_ = self.head()
        highest = self._database.row("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")
        last = max(noted, 0 if highest is None else int(highest["seq"]))
        if last > seq:
            raise AuditBroken(
                f"audit record {seq + 1} is missing: the chain had {last} records, {seq} are left"
            )
        if hash_ != newest:
            raise AuditBroken(f"audit record {seq} is not the one that was written last")
        return seq


def _text_of(body: Any) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)


def hash_record(before: str, seq: int, at: float, kind: str, subject: str, body: str) -> str:
    """Return the hash of a record that follows one with the hash `before`."""
    fields = json.dumps([before, seq, at, kind, subject, body], separators=(",", ":"))
    return hashlib.sha256(fields.encode("utf-8", "surrogatepass")).hexdigest()
