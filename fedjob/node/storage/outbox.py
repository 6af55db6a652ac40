"""The node's outbox and its window of seen ids, in its SQLite file.

Called inside the daemon's transactions where one is open, so that a result, the
reply that carries it and the mark on the message that asked for it are one commit.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping

from fedjob.common.types import Address
from fedjob.messaging.outbox import MAX_SEEN, CourierStore, Outgoing
from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.database import Database

_CLEAN_EVERY = 256

MAX_FORGETTABLE = 1000
"""Refusals, and answers to offers, that wait for their receipts; of more, the oldest are forgotten."""


class Forgettable:
    """The outgoing messages that a node can do without, oldest first: whoever wants one asks again."""

    def __init__(self, most: int = MAX_FORGETTABLE) -> None:
        self._most = most
        self._ids: dict[str, None] = {}

    def add(self, ids: Iterable[str]) -> list[str]:
        """Take note of further ones; return those that are to be forgotten, the new ones among them."""
        self._ids.update(dict.fromkeys(ids))
        surplus = list(self._ids)[: max(0, len(self._ids) - self._most)]
        self.drop(surplus)
        return surplus

    def drop(self, ids: Iterable[str]) -> None:
        """Take note that these are not on their way any more; unknown ids are ignored."""
        for id_ in ids:
            self._ids.pop(id_, None)


class DatabaseStore(CourierStore):
    """A `CourierStore` that survives a kill.

    The parameters that are attached to an answer lie in the database once: they are cut out of its message, which is
    forgotten when they are, since the task is released then and nobody waits for its answer.

    Args:
        attached: those that the database has.
    """

    def __init__(self, database: Database, attached: AttachedParams) -> None:
        self._database = database
        self.attached = attached
        self._marks = 0
        self._dropped: set[str] = set()

    def add(self, outgoing: Outgoing) -> None:
        if not outgoing.reliable:
            return
        to, payload, cut_at, cut = outgoing.to, outgoing.payload, 0, ""
        if outgoing.attached_bytes and (found := self.attached.cut_out_of(payload)):
            payload, cut_at, cut = found
        with self._database.transaction():
            self.flush()
            self._database.execute(
                "INSERT OR IGNORE INTO outbox (id, party, session, payload, cut_at, cut, expires, job, task) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    outgoing.id,
                    None if to is None else to.party,
                    None if to is None else to.session,
                    payload,
                    cut_at,
                    cut,
                    outgoing.expires,
                    outgoing.job,
                    outgoing.task,
                ),
            )

    def outgoing(self) -> list[Outgoing]:
        return [
            Outgoing(
                id=row["id"],
                to=None if row["party"] is None else Address(row["party"], row["session"]),
                payload=payload,
                expires=row["expires"],
                job=row["job"],
                task=row["task"],
            )
            for row in self._database.rows("SELECT * FROM outbox ORDER BY seq")
            if row["id"] not in self._dropped and (payload := self._payload_of(row)) is not None
        ]

    def _payload_of(self, row: sqlite3.Row) -> bytes | None:
        """Return a message as it was added; None where what was cut out of it is not kept any more."""
        payload, cut_at, cut = bytes(row["payload"]), row["cut_at"], row["cut"]
        if not cut:
            return payload
        content = self.attached.of([cut]).get(cut)
        return None if content is None else payload[:cut_at] + content + payload[cut_at:]

    def drop(self, ids: Iterable[str]) -> None:
        # Written with the next commit: losing it means one resend, which the other side knows.
        self._dropped.update(ids)

    def flush(self) -> None:
        """Write what was dropped; called inside a transaction."""
        for id_ in self._dropped:
            self._database.execute("DELETE FROM outbox WHERE id = ?", (id_,))
        self._dropped.clear()

    def unflushed(self) -> bool:
        """True if something was dropped that is not yet written."""
        return bool(self._dropped)

    def mark_seen(self, entries: Mapping[str, float]) -> None:
        with self._database.transaction():
            for key, expires in entries.items():
                self._database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (key, expires))
            self._marks += len(entries)
            if self._marks >= _CLEAN_EVERY:
                self._marks = 0
                self._clean()

    def seen(self, key: str) -> bool:
        return self._database.row("SELECT 1 FROM seen WHERE key = ?", (key,)) is not None

    def _clean(self) -> None:
        execute = self._database.execute
        execute("DELETE FROM seen WHERE expires < ?", (time.time() - 60.0,))
        execute(
            "DELETE FROM seen WHERE key IN (SELECT key FROM seen ORDER BY expires LIMIT "
            "max(0, (SELECT count(*) FROM seen) - ?))",
            (MAX_SEEN,),
        )
