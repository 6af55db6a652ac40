"""The sessions of secure sums in a node's database: what it has shown, so that it never shows more."""

from __future__ import annotations

from fedjob.common.codec import pack, unpack
from fedjob.node.storage.database import Database
from fedjob.privacy.secagg.node_session import NodeSession
from fedjob.privacy.secagg.terms import Terms


class SumSessions:
    """The table `secure_sums`; its changes belong into the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, terms: Terms) -> NodeSession | None:
        """Return the session of these very terms."""
        row = self._database.row("SELECT body FROM secure_sums WHERE session = ?", (terms.digest.hex(),))
        return None if row is None else NodeSession.from_plain(unpack(row["body"]))

    def latest(self, terms: Terms) -> tuple[int, bool]:
        """Return the newest attempt at this ask, 0 for none, and whether the node has revealed in any."""
        row = self._database.row(
            "SELECT max(attempt) AS newest, max(revealed) AS revealed FROM secure_sums WHERE ask = ?",
            (terms.ask,),
        )
        if row is None or row["newest"] is None:
            return 0, False
        return int(row["newest"]), bool(row["revealed"])

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
        """Forget a job's sessions with their secrets."""
        self._database.execute("DELETE FROM secure_sums WHERE job = ?", (job,))
