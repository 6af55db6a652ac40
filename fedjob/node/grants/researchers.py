"""The researchers whose keys the owner has met: by approving a request of theirs, or by a command.

How researchers describe themselves grants nothing: an agreement for an
organisation counts for keys that the owner knows to belong to it.
"""

from __future__ import annotations

import time
from typing import Any

from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database


class KnownResearchers:
    """Known keys, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    def add(self, researcher: str, key_hex: str, org: str, by: str) -> None:
        """Note that the owner knows this key, and which organisation it belongs to."""
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO researchers VALUES (?, ?, ?, ?, ?)",
                (researcher, key_hex, org, time.time(), by),
            )
            self._audit.add("researcher", researcher, {"key": key_hex, "org": org, "by": by})

    def org_of(self, researcher: str, key_hex: str) -> str | None:
        """Return the organisation of a researcher whose key the owner knows, None if it is not known."""
        row = self._database.row(
            "SELECT org FROM researchers WHERE researcher = ? AND key_hex = ?", (researcher, key_hex)
        )
        return None if row is None else str(row["org"])

    def all(self) -> list[dict[str, Any]]:
        """Return the researchers that the owner knows."""
        return [dict(row) for row in self._database.rows("SELECT * FROM researchers ORDER BY researcher")]
