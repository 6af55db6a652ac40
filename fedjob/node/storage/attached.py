"""The parameters that are attached to tasks and to their answers, in the node's SQLite file.

Nobody sends those of a task again once it is confirmed, and nobody could compute those of an answer again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from fedjob.node.storage.database import Database


class AttachedParams:
    """The attached parameters of the node's tasks and answers; used by the daemon's loop alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwanted: set[str] = set()
        self._read: dict[str, bytes] = {}  # what was asked for last

    def add(self, attached: Mapping[str, bytes]) -> None:
        """Keep what came with a task, or leaves with its answer; called inside the transaction that says that it is so."""
        self.flush()
        for sha256, content in attached.items():
            self._database.execute("INSERT OR IGNORE INTO attached VALUES (?, ?)", (sha256, content))

    def of(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return sha256 -> bytes, of those names that something came under."""
        found = {}
        for sha256 in names:
            row = self._database.row("SELECT content FROM attached WHERE sha256 = ?", (sha256,))
            if row is not None:
                found[sha256] = bytes(row["content"])
        self._read = found
        return found

    def cut_out_of(self, payload: bytes) -> tuple[bytes, int, str] | None:
        """Cut parameters that were asked for last out of the message that was made with them.

        Returns:
            What is left, where they were, and their sha256; None where they are not in it as they are.
        """
        for sha256, content in self._read.items():
            if content and (at := payload.find(content)) >= 0:
                return payload[:at] + payload[at + len(content) :], at, sha256
        return None

    def keep(self, wanted: Collection[str]) -> None:
        """Let go of what no task needs any more; it is deleted with the next commit that there is."""
        held = {row["sha256"] for row in self._database.rows("SELECT sha256 FROM attached")}
        self._unwanted = held - set(wanted)

    def unflushed(self) -> bool:
        """True if something was let go of that is not yet deleted."""
        return bool(self._unwanted)

    def flush(self) -> None:
        """Delete what was let go of; called inside a transaction. If that fails the next `keep` finds it again."""
        for sha256 in self._unwanted:
            self._database.execute("DELETE FROM attached WHERE sha256 = ?", (sha256,))
        self._unwanted = set()
