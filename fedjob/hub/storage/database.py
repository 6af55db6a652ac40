"""The hub's SQLite file, with one writer thread that commits all waiting writes in one transaction."""

from __future__ import annotations

import contextlib
import errno
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fedjob.common.errors import ConfigError, NoSpace, RepositoryError
from fedjob.common.files import fsync_dir, make_folder, touch_private

T = TypeVar("T")

SCHEMA_VERSION = 5
MAX_BATCH = 256
_BUSY_S = 30.0

_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE parties (
    party TEXT PRIMARY KEY, role TEXT NOT NULL, key TEXT NOT NULL,
    sealing TEXT NOT NULL, binding TEXT NOT NULL, token_hash TEXT NOT NULL UNIQUE,
    broker_hash TEXT NOT NULL, enrolled REAL NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE certificates (party TEXT PRIMARY KEY, key_hash TEXT NOT NULL, issued REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE invitations (
    code_hash TEXT PRIMARY KEY, party TEXT NOT NULL, role TEXT NOT NULL, expires REAL NOT NULL,
    used_by TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE objects (sha256 TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (job TEXT PRIMARY KEY, owner TEXT, active REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (
    sha256 TEXT NOT NULL, job TEXT NOT NULL, owner TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    PRIMARY KEY (sha256, job, owner)
) WITHOUT ROWID;
CREATE INDEX leases_of_job ON leases (job);
CREATE TABLE readers (
    sha256 TEXT NOT NULL, reader TEXT NOT NULL, job TEXT NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (sha256, reader, job, owner)
) WITHOUT ROWID;
CREATE TABLE usage (party TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, num_objects INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER lease_begins AFTER INSERT ON leases BEGIN
    INSERT INTO usage VALUES (NEW.owner, NEW.size_bytes, 1)
        ON CONFLICT (party) DO UPDATE SET size_bytes = size_bytes + NEW.size_bytes, num_objects = num_objects + 1;
END;
CREATE TRIGGER lease_ends AFTER DELETE ON leases BEGIN
    UPDATE usage SET size_bytes = size_bytes - OLD.size_bytes, num_objects = num_objects - 1 WHERE party = OLD.owner;
    DELETE FROM readers WHERE sha256 = OLD.sha256 AND job = OLD.job AND owner = OLD.owner;
END;
CREATE TABLE statements (
    kind TEXT NOT NULL, number INTEGER NOT NULL, party TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (kind, number)
) WITHOUT ROWID;
CREATE TABLE watches (
    job TEXT PRIMARY KEY, owner TEXT NOT NULL, readers TEXT NOT NULL, frame BLOB NOT NULL, put REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX watches_of_owner ON watches (owner);
"""


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any]
    folder: Path | None


class HubDatabase:
    """The hub's database: parties, invitations, objects, leases; a write is durable when `write` returns.

    The running hub and the command line may have it open at the same time: each
    transaction begins with the write lock.

    Args:
        path: of the SQLite file, created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path.parent)
        try:
            touch_private(path)  # SQLite gives its other files the mode of this one
            self._writer = self._connect()
            _prepare(self._writer)
            self._reader = self._connect()
            self._inode = path.stat().st_ino
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigError(f"{path} can't be used as the hub's ledger: {error}") from error
        self._reading = threading.Lock()
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="fedjob-ledger", daemon=True)
        self._thread.start()
        self.federation = str(self.read("SELECT value FROM facts WHERE key = 'federation'")[0][0])

    @property
    def is_there(self) -> bool:
        """True if the file is still the one that was opened: nobody has removed or replaced it."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query; it never waits for a writer."""
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    def version(self) -> int:
        """Return a number that changes whenever any process commits something."""
        with self._reading:
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def submit(self, work: Callable[[sqlite3.Connection], T], *, folder: Path | None = None) -> Future[T]:
        """Queue `work` for the writer's thread; the future has its result once it is durable.

        If `work` raises, what it did is rolled back, and no other write of the same transaction.

        Args:
            folder: in which `work` renames a file. It is fsynced before the commit, after all
                renames of the batch, because the first fsync makes the others cheap.
        """
        future: Future[T] = Future()
        self._waiting.put(_Write(work, future, folder))
        return future

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` and wait until it is durable."""
        return self.submit(work).result(timeout=2 * _BUSY_S)

    def close(self) -> None:
        """Commit the waiting writes and close; the ledger can't be used afterwards."""
        self._waiting.put(None)
        self._thread.join(2 * _BUSY_S)
        with self._reading:
            self._reader.close()
        self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _write_all(self) -> None:
        going = True
        while going:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < MAX_BATCH:
                    batch.append(self._waiting.get_nowait())
            going = None not in batch
            self._write_batch([item for item in batch if item is not None])

    def _write_batch(self, batch: list[_Write]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        folders: set[Path] = set()
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in batch:
                self._writer.execute("SAVEPOINT one")
                try:
                    outcomes.append((write.future, write.work(self._writer), None))
                    folders |= {write.folder} if write.folder is not None else set()
                except Exception as error:
                    self._writer.execute("ROLLBACK TO one")
                    outcomes.append((write.future, None, _meaning(error)))
                self._writer.execute("RELEASE one")
            for folder in folders:
                fsync_dir(folder)
            self._writer.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            outcomes = [(write.future, None, _meaning(error)) for write in batch]
        for future, result, raised in outcomes:
            if not future.set_running_or_notify_cancel():
                continue
            if raised is None:
                future.set_result(result)
            else:
                future.set_exception(raised)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in _statements(_SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("INSERT INTO facts VALUES ('federation', ?)", (f"fed_{secrets.token_hex(8)}",))
    connection.execute("COMMIT")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"this hub's home was written by a newer fedjob (ledger {version}, this one knows {SCHEMA_VERSION}): "
            "install that fedjob again, or restore the backup that was made with this one (fedjob hub restore, "
            "docs/operations.md)"
        )
    if 0 < version < SCHEMA_VERSION:
        raise ConfigError(
            f"this hub's home was written by an older fedjob (ledger {version}), which kept less of its "
            "parties: start the hub in another home, and let the parties join again"
        )


def _statements(script: str) -> list[str]:
    statements, current = [], ""
    for line in script.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _meaning(error: Exception) -> Exception:
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return NoSpace("the hub's disk is full: free some space")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the hub's disk is full: free some space")
    if isinstance(error, (sqlite3.Error, OSError)):
        return RepositoryError(f"the hub's ledger can't be written: {error}")
    return error
