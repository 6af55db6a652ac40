"""The node's outbox and its window of seen ids, in its SQLite file.

Called inside the daemon's transactions where one is open, so that a result, the
reply that carries it and the mark on the message that asked for it are one commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from fedjob.common.types import Address
from fedjob.messaging.outbox import MAX_SEEN, CourierStore, Outgoing
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
    """A `CourierStore` that survives a kill."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._marks = 0
        self._dropped: set[str] = set()

    def add(self, outgoing: Outgoing) -> None:
        if not outgoing.reliable:
            return
        to = outgoing.to
        with self._database.transaction():
            self.flush()
            self._database.execute(
                "INSERT OR IGNORE INTO outbox (id, party, session, payload, expires, job, task) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    outgoing.id,
                    None if to is None else to.party,
                    None if to is None else to.session,
                    outgoing.payload,
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
                payload=row["payload"],
                expires=row["expires"],
                job=row["job"],
                task=row["task"],
            )
            for row in self._database.rows("SELECT * FROM outbox ORDER BY seq")
            if row["id"] not in self._dropped
        ]

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
