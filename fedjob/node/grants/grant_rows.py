"""The rows of grants in the node's database; each change leaves an audit record in its transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.node.grants.contract import Request
from fedjob.node.grants.grant import Grant, GrantSubject
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database

MAX_NOTE_CHARS = 2000
_SELECT = (
    "SELECT *, (SELECT count(*) FROM uses WHERE grant_id = grants.id) AS uses, "
    "(SELECT coalesce(sum(made), 0) FROM inferences WHERE grant_id = grants.id) AS inferences_spent, "
    "(SELECT coalesce(sum(bytes_in + bytes_out), 0) FROM costs WHERE grant_id = grants.id) AS moved_bytes FROM grants"
)
_UNAUDITED = ("model_args", "training_args", "props", "uses", "requested", "decided", "pool", "rounds")
_SUBJECT = ("researcher", "key_hex", "plan", "entry", "dataset", "version", "use", "project", "question")


class GrantRows:
    """Reads and writes grants; what is allowed to become what is `Grants`' business."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.audit = Audit(database)

    def select(self, where: str, values: tuple[Any, ...] = ()) -> list[Grant]:
        """Return the grants that a condition finds."""
        return [_grant(row) for row in self._database.rows(f"{_SELECT} {where}", values)]

    def get(self, id_: str) -> Grant:
        """Return the grant of exactly this id."""
        return self.select("WHERE id = ?", (id_,))[0]

    def insert(
        self, origin: str, subject: GrantSubject, protocol: str, asked: Request, limits: GrantLimits
    ) -> Grant:
        """Put in a pending grant under a fresh id."""
        id_ = secrets.token_hex(6)
        self._database.execute(
            f"INSERT INTO grants (id, origin, status, {', '.join(_SUBJECT)}, protocol, asked, limits, "
            "approvals, requested) VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id_,
                origin,
                *(getattr(subject, name) for name in _SUBJECT),
                protocol,
                pack(to_plain(asked)),
                pack(limits.to_plain()),
                pack([]),
                time.time(),
            ),
        )
        grant = self.get(id_)
        self._record(grant, "")
        return grant

    def bind(self, grant: Grant, key_hex: str) -> None:
        """Bind a standing agreement that names a researcher to the key of theirs that was met first."""
        self._database.execute("UPDATE grants SET key_hex = ? WHERE id = ?", (key_hex, grant.id))
        self._record(self.get(grant.id), grant.status)

    def decide(
        self,
        grant: Grant,
        status: str,
        *,
        note: str,
        by: str,
        limits: GrantLimits,
        approvals: tuple[Mapping[str, Any], ...],
        rule: str = "",
    ) -> None:
        """Write down what became of a grant; those who wait are told of it later."""
        self._database.execute(
            "UPDATE grants SET status = ?, note = ?, decided = ?, decided_by = ?, limits = ?, approvals = ?, "
            "until = ?, rule = ?, announced = 0 WHERE id = ?",
            (
                status,
                note[:MAX_NOTE_CHARS],
                time.time(),
                by,
                pack(limits.to_plain()),
                pack([dict(approval) for approval in approvals]),
                limits.until,
                rule,
                grant.id,
            ),
        )
        self._record(self.get(grant.id), grant.status)

    def _record(self, grant: Grant, before: str) -> None:
        plain = {name: value for name, value in grant.to_plain().items() if name not in _UNAUDITED}
        self.audit.add("grant", grant.id, {**plain, "before": before})


def _grant(row: Any) -> Grant:
    return Grant(
        id=row["id"],
        origin=row["origin"],
        status=row["status"],
        subject=GrantSubject(**{name: row[name] for name in _SUBJECT}),
        protocol=row["protocol"],
        asked=from_plain(Request, unpack(row["asked"])),
        limits=GrantLimits.from_plain(unpack(row["limits"])),
        approvals=tuple(unpack(row["approvals"])),
        note=row["note"],
        requested=row["requested"],
        decided=row["decided"],
        decided_by=row["decided_by"],
        rule=row["rule"],
        uses=row["uses"],
        rows_spent=row["rows_spent"],
        inferences_spent=row["inferences_spent"],
        moved_bytes=row["moved_bytes"],
    )
