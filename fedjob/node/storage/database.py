"""A node's SQLite file: opening it, and transactions.

The daemon and the command line write it, each in `BEGIN IMMEDIATE` transactions;
`changed` tells one that another wrote. WAL with synchronous=FULL: a commit that
returned survives a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedjob.common.errors import ConfigError
from fedjob.common.files import touch_private
from fedjob.node.storage.schema import SCHEMA, SCHEMA_VERSION

BUSY_S = 10.0


class Database:
    """One connection to a node's SQLite file; used by one thread.

    Args:
        path: made with its tables where it is missing.

    Raises:
        ConfigError: another program's file, a newer fedjob's, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            touch_private(path)  # SQLite gives its other files the mode of this one
            self._connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._prepare()
            self._version = self._data_version()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"{path} can't be opened as a node's database ({error}): restore it from a backup, or move "
                "it away to begin anew"
            ) from error

    @property
    def home(self) -> Path:
        """The folder that the file lies in."""
        return self._path.parent

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA secure_delete = ON")  # the keys in a job's tasks go with them
        execute("PRAGMA cache_size = -2048")  # KiB: the file is small, a daemon's memory should be too
        with self.transaction():
            found = int(execute("PRAGMA user_version").fetchone()[0])
            if found > SCHEMA_VERSION:
                raise ConfigError(
                    f"{self._path} was written by a newer fedjob (schema {found}, this one knows "
                    f"{SCHEMA_VERSION}): install that fedjob again, or restore the backup that was made with this one "
                    "(fedjob node restore, docs/operations.md)"
                )
            if 0 < found < SCHEMA_VERSION:
                raise ConfigError(
                    f"{self._path} was written by an older fedjob (schema {found}, this one needs "
                    f"{SCHEMA_VERSION}): install that fedjob again, or move it away and add the datasets again"
                )
            if found == 0:
                for statement in SCHEMA.split(";\n"):
                    if statement.strip():
                        execute(statement)
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Run a block as one transaction; nested ones join the outermost.

        Args:
            durable: False where losing it to a power cut (not to a kill) is harmless: saves the fsync.
        """
        if self._connection.in_transaction:
            yield
            return
        if not durable:
            self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.OperationalError):  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        finally:
            if not durable:
                self._connection.execute("PRAGMA synchronous = FULL")

    def execute(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(sql, values)

    def rows(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> list[sqlite3.Row]:
        """Return every row of a query."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def changed(self) -> bool:
        """Tell whether another connection wrote since the last call."""
        version = self._data_version()
        if version == self._version:
            return False
        self._version = version
        return True

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def scrub(self) -> bool:
        """Remove what was deleted from the write-ahead log, too; return whether it could be done now."""
        busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
