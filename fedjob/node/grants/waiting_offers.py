"""Offers that are answered again once the owner has decided."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.messaging.messages import Offer
from fedjob.node.storage.database import Database

MAX_WAITING = 16
"""Offers that one undecided grant answers later; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An offer that gets another answer.

    Args:
        offer: its message id.
        sender: the researcher.
    """

    offer: str
    reply_to: str
    job: str
    sender: str
    body: Offer


class WaitingOffers:
    """The offers that wait, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, grant: str, waiting: Waiting) -> None:
        """Remember whom to answer when this is decided."""
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO waiting (offer, grant_id, reply_to, job, sender, body) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    waiting.offer,
                    grant,
                    waiting.reply_to,
                    waiting.job,
                    waiting.sender,
                    pack(to_plain(waiting.body)),
                ),
            )
            self._database.execute(
                "DELETE FROM waiting WHERE grant_id = ? AND rowid NOT IN "
                "(SELECT rowid FROM waiting WHERE grant_id = ? ORDER BY rowid DESC LIMIT ?)",
                (grant, grant, MAX_WAITING),
            )

    def of(self, grant: str) -> list[Waiting]:
        """Return the offers that wait for a grant, oldest first."""
        return [
            Waiting(
                row["offer"],
                row["reply_to"],
                row["job"],
                row["sender"],
                from_plain(Offer, unpack(row["body"])),
            )
            for row in self._database.rows(
                "SELECT * FROM waiting WHERE grant_id = ? ORDER BY rowid", (grant,)
            )
        ]

    def forget_job(self, job: str) -> None:
        """Drop the offers of a job that has ended."""
        self._database.execute("DELETE FROM waiting WHERE job = ?", (job,))
