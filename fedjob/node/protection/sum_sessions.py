"""The sessions of secure sums in a node's database: what it has shown, so that it never shows more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedjob.common.codec import pack, unpack
from fedjob.node.storage.database import Database
from fedjob.privacy.secagg.node_session import NodeSession
from fedjob.privacy.secagg.steps import Newest
from fedjob.privacy.secagg.terms import Terms


class SumSessions:
    """The table `secure_sums`; its changes belong into the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, terms: Terms) -> NodeSession | None:
        """Return the session of these very terms."""
        row = self._database.row("SELECT body FROM secure_sums WHERE session = ?", (terms.digest.hex(),))
        return None if row is None else _session(row["body"])

    def newest(self, terms: Terms) -> Newest:
        """Return what the node has done of this ask."""
        row = self._database.row(
            "SELECT attempt, body, (SELECT max(revealed) FROM secure_sums WHERE ask = ?) AS is_over "
            "FROM secure_sums WHERE ask = ? ORDER BY attempt DESC",
            (terms.ask, terms.ask),
        )
        if row is None:
            return Newest()
        return Newest(
            attempt=int(row["attempt"]), is_over=bool(row["is_over"]), session=_session(row["body"])
        )

    def put(self, session: NodeSession) -> None:
        """Keep a session; earlier attempts at the same ask are forfeited with it, and their secrets gone."""
        terms = session.terms
        self._database.execute(
            "DELETE FROM secure_sums WHERE ask = ? AND attempt < ? AND revealed = 0",
            (terms.ask, terms.attempt),
        )
        self._database.execute(
            "INSERT OR REPLACE INTO secure_sums (session, ask, job, attempt, revealed, body) VALUES (?, ?, ?, ?, ?, ?)",
            (
                terms.digest.hex(),
                terms.ask,
                terms.job,
                terms.attempt,
                int(session.revealed),
                pack(session.to_plain()),
            ),
        )

    def end_job(self, job: str) -> None:
        """Forget a job's sessions with their secrets.

        Where this node may be in a sum with noise, it stays on record that the ask is over: a job that comes back is given
        no second sum of that contribution, whose noise would be another one.
        """
        for row in self._database.rows("SELECT session, body FROM secure_sums WHERE job = ?", (job,)):
            session = _session(row["body"])
            if session is None or (session.terms.noise is not None and (session.masked or session.earlier)):
                self._database.execute(
                    "UPDATE secure_sums SET revealed = 1, body = x'' WHERE session = ?", (row["session"],)
                )
            else:
                self._database.execute("DELETE FROM secure_sums WHERE session = ?", (row["session"],))


class SessionsOfTurn:
    """The sessions as they will be after a commit: of two messages in one turn the second finds what the first left.

    Args:
        changed: digest of the terms -> session, of those that the commit will put.
    """

    def __init__(self, kept: SumSessions, changed: Mapping[bytes, NodeSession]) -> None:
        self._kept = kept
        self._changed = changed

    def find(self, terms: Terms) -> NodeSession | None:
        """Return the session of these very terms."""
        found = self._changed.get(terms.digest) or self._kept.find(terms)
        newer = any(one.terms.attempt > terms.attempt for one in self._of_ask(terms))
        return None if found is not None and newer and not found.revealed else found

    def newest(self, terms: Terms) -> Newest:
        """Return what the node has done of this ask."""
        newest = self._kept.newest(terms)
        for one in self._of_ask(terms):
            is_over = newest.is_over or one.revealed
            if one.terms.attempt >= newest.attempt:
                newest = Newest(attempt=one.terms.attempt, is_over=is_over, session=one)
            else:
                newest = replace(newest, is_over=is_over)
        return newest

    def _of_ask(self, terms: Terms) -> list[NodeSession]:
        return [one for one in self._changed.values() if one.terms.ask == terms.ask]


def _session(body: bytes) -> NodeSession | None:
    return NodeSession.from_plain(unpack(body)) if body else None
