"""The owner's decisions: which researcher may run which exact text on which dataset.

A grant is about one researcher's key, the sha256 of a plan's text, the class in
it, a dataset, and private or mock use. The node keeps the text itself, and what
it runs is compiled from these bytes. A new node has approved nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from fedjob.common.errors import PlanError, SpecError
from fedjob.node.database import Database

MAX_WAITING = 16
"""Offers that one undecided grant answers later; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked for.

    Args:
        plan: sha256 of the plan's text; empty for a protocol without a plan.
        entry: the plan's class, or, without a plan, the protocol's name.
    """

    researcher: str
    key_hex: str
    plan: str
    entry: str
    dataset: str
    use: str = "private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A request, and what became of it.

    Args:
        status: `pending`, `approved` or `rejected`.
        request_note: the researcher's; `note` is the owner's.
        requested, decided: seconds since 1970.
    """

    id: str
    subject: Subject
    protocol: str
    status: str
    job_name: str
    request_note: str
    note: str
    requested: float
    decided: float | None
    decided_by: str

    def to_plain(self) -> dict[str, Any]:
        """Return it flat, for lists and JSON."""
        subject = self.subject
        return {
            "id": self.id,
            "status": self.status,
            "researcher": subject.researcher,
            "dataset": subject.dataset,
            "use": subject.use,
            "protocol": self.protocol,
            "entry": subject.entry,
            "plan": subject.plan,
            "job_name": self.job_name,
            "request_note": self.request_note,
            "note": self.note,
            "requested": self.requested,
            "decided": self.decided,
            "decided_by": self.decided_by,
            "key": subject.key_hex,
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """An offer that gets another answer once the owner has decided."""

    offer: str
    reply_to: str
    job: str


class Grants:
    """The grants, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, subject: Subject) -> Grant | None:
        """Return the grant about exactly this."""
        row = self._database.row(
            "SELECT * FROM grants WHERE researcher = ? AND key_hex = ? AND plan = ? AND entry = ? "
            "AND dataset = ? AND use = ?",
            _values(subject),
        )
        return None if row is None else _grant(row)

    def file(
        self, subject: Subject, text: bytes, *, protocol: str, job_name: str = "", note: str = ""
    ) -> Grant:
        """Ask the owner; asking again changes nothing.

        Raises:
            PlanError: the text does not have the hash it is asked for by.
        """
        if subject.plan and hashlib.sha256(text).hexdigest() != subject.plan:
            raise PlanError("the plan's text does not have the hash that names it")
        with self._database.transaction():
            found = self.find(subject)
            if found is not None:
                return found
            if subject.plan:
                self._database.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (subject.plan, text))
            self._database.execute(
                "INSERT INTO grants (id, researcher, key_hex, plan, entry, dataset, use, protocol, status, "
                "job_name, request_note, requested) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?)",
                (
                    secrets.token_hex(6),
                    *_values(subject),
                    protocol,
                    job_name[:200],
                    note[:2000],
                    time.time(),
                ),
            )
        filed = self.find(subject)
        assert filed is not None
        return filed

    def num_pending(self, researcher: str) -> int:
        """Return how many of a researcher's requests are undecided."""
        row = self._database.row(
            "SELECT count(*) AS n FROM grants WHERE researcher = ? AND status = 'pending'", (researcher,)
        )
        return 0 if row is None else int(row["n"])

    def all(self, status: str | None = None) -> list[Grant]:
        """Return the grants, newest first."""
        rows = self._database.rows("SELECT * FROM grants ORDER BY requested DESC")
        return [_grant(row) for row in rows if status is None or row["status"] == status]

    def get(self, prefix: str) -> Grant:
        """Return the one grant whose id begins so.

        Raises:
            SpecError: none, or several.
        """
        found = [grant for grant in self.all() if prefix and grant.id.startswith(prefix)]
        if len(found) != 1:
            several = ", ".join(grant.id for grant in found[:5])
            raise SpecError(
                f"{prefix!r} begins several grants: {several}"
                if found
                else f"there is no grant {prefix!r}; see `fedjob node grants list`"
            )
        return found[0]

    def text_of(self, plan: str) -> bytes | None:
        """Return the bytes of a plan that was asked for, checked against their hash."""
        row = self._database.row("SELECT text FROM plans WHERE sha256 = ?", (plan,))
        if row is None:
            return None
        text = bytes(row["text"])
        return text if hashlib.sha256(text).hexdigest() == plan else None

    def decide(self, id_: str, *, approve: bool, note: str, by: str) -> Grant:
        """Write down the owner's decision; a later one replaces it."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE grants SET status = ?, note = ?, decided = ?, decided_by = ?, announced = 0 "
                "WHERE id = ?",
                ("approved" if approve else "rejected", note[:2000], time.time(), by, id_),
            )
        return self.get(id_)

    # --- offers that wait for a decision ----------------------------------------------------------

    def wait(self, grant: str, waiting: Waiting) -> None:
        """Remember whom to answer when this is decided."""
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO waiting (offer, grant_id, reply_to, job) VALUES (?, ?, ?, ?)",
                (waiting.offer, grant, waiting.reply_to, waiting.job),
            )
            self._database.execute(
                "DELETE FROM waiting WHERE grant_id = ? AND rowid NOT IN "
                "(SELECT rowid FROM waiting WHERE grant_id = ? ORDER BY rowid DESC LIMIT ?)",
                (grant, grant, MAX_WAITING),
            )

    def decided(self) -> list[tuple[Grant, list[Waiting]]]:
        """Return decisions that nobody was told of yet, and who waits for them."""
        return [
            (
                _grant(row),
                [
                    Waiting(w["offer"], w["reply_to"], w["job"])
                    for w in self._database.rows(
                        "SELECT * FROM waiting WHERE grant_id = ? ORDER BY rowid", (row["id"],)
                    )
                ],
            )
            for row in self._database.rows("SELECT * FROM grants WHERE announced = 0 AND status <> 'pending'")
        ]

    def told(self, grant: str) -> None:
        """Mark a decision as announced; the offers stay, for the owner may change it."""
        self._database.execute("UPDATE grants SET announced = 1 WHERE id = ?", (grant,))

    def forget_job(self, job: str) -> None:
        """Drop the offers of a job that has ended."""
        self._database.execute("DELETE FROM waiting WHERE job = ?", (job,))


def _values(subject: Subject) -> tuple[str, ...]:
    return (
        subject.researcher,
        subject.key_hex,
        subject.plan,
        subject.entry,
        subject.dataset,
        subject.use,
    )


def _grant(row: Any) -> Grant:
    return Grant(
        id=row["id"],
        subject=Subject(
            researcher=row["researcher"],
            key_hex=row["key_hex"],
            plan=row["plan"],
            entry=row["entry"],
            dataset=row["dataset"],
            use=row["use"],
        ),
        protocol=row["protocol"],
        status=row["status"],
        job_name=row["job_name"],
        request_note=row["request_note"],
        note=row["note"],
        requested=row["requested"],
        decided=row["decided"],
        decided_by=row["decided_by"],
    )
