"""The audit log of a node: a chain of records, one for each change of a grant or a task.

Each record's hash covers the record and the hash before it; the newest is noted
beside the chain. It is written in the transaction of the change that it records,
so neither exists without the other. Whoever can write the node's files can forge
a chain from some record on: keep the head that `fedjob node audit` prints
elsewhere, and a later `--verify --head` shows whether it still is in the chain.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.errors import AuditBroken, SpecError
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


class Audit:
    """The chain, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
        """Append a record; part of the caller's transaction."""
        text = json.dumps(dict(body), sort_keys=True, separators=(",", ":"), default=str)
        with self._database.transaction():
            seq, before = self.head()
            at = round(time.time(), 6)
            hash_ = _hash(before, seq + 1, at, kind, subject, text)
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

    def verify(self, head: str = "") -> int:
        """Recompute the chain; return the number of its records.

        Args:
            head: a hash that was noted earlier and has to be in the chain.

        Raises:
            AuditBroken: a record was changed, removed or put in; it is named.
            SpecError: `head` is no hash.
        """
        if head and not re.fullmatch(r"[0-9a-f]{64}", head):
            raise SpecError(
                f"expected a head as `fedjob node audit --verify` prints it, 64 hex digits, found {head[:80]!r}"
            )
        seq, before, seen = 0, FIRST, head in ("", FIRST)
        for record in self.records():
            if record.seq != seq + 1:
                raise AuditBroken(
                    f"audit record {seq + 1} is missing: record {record.seq} follows {seq or 'the beginning'}"
                )
            seq = record.seq
            if record.hash != _hash(before, seq, record.at, record.kind, record.subject, record.body):
                raise AuditBroken(
                    f"audit record {seq} ({record.kind} {record.subject[:40]}) does not fit to the one before "
                    "it: it was changed, put in, or the one before it was"
                )
            before = record.hash
            seen = seen or record.hash == head
        noted, hash_ = self.head()
        highest = self._database.row("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")
        last = max(noted, 0 if highest is None else int(highest["seq"]))
        if last > seq:
            raise AuditBroken(
                f"audit record {seq + 1} is missing: the chain had {last} records, {seq} are left"
            )
        if hash_ != before:
            raise AuditBroken(f"audit record {seq} is not the one that was written last")
        if not seen:
            raise AuditBroken(f"no audit record has the hash {head[:16]}...: the chain was written anew")
        return seq


def _hash(before: str, seq: int, at: float, kind: str, subject: str, body: str) -> str:
    fields = json.dumps([before, seq, at, kind, subject, body], separators=(",", ":"))
    return hashlib.sha256(fields.encode("utf-8", "surrogatepass")).hexdigest()
