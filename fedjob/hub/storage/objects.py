"""The hub's objects on disk, with the jobs that hold them and the parties that may read them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import NoSpace, NotPermitted, ObjectCorrupt, ObjectMissing, ObjectTooLarge
from fedjob.common.files import EarlyWriteback, fsync_dir, make_folder, no_space_is_an_error, write_at
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.bucket import Bucket
from fedjob.hub.storage.database import HubDatabase
from fedjob.repository.base import WATCH

SHA256 = re.compile(r"[0-9a-f]{64}")
_OWN_FILE = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}\.tmp")
"""Names of objects and of uploads in progress."""

ORPHAN_S = 3600.0
"""Seconds for which a file without a row may be an upload in progress; older ones are removed."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The party and job for which an object is stored, and the parties that may read it."""

    party: str
    role: str
    job: str
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Swept:
    """The numbers of things that a garbage collection removed."""

    num_jobs: int
    num_objects: int
    num_files: int
    freed_bytes: int


class Incoming:
    """An upload in progress: a temporary file and the hash of what has arrived.

    Args:
        limit_bytes: that it has at most; so many are set aside for it.
        forget: takes this upload when it is over.
    """

    def __init__(self, folder: Path, limit_bytes: int, forget: Callable[[Incoming], object]) -> None:
        self._path = folder / f"{uuid.uuid4().hex}.tmp"
        self.limit_bytes = limit_bytes
        self._forget = forget
        self._hasher = hashlib.sha256()
        self.num_bytes = 0
        self.seen_removals = -1
        """Of an object that is in the bucket already: how often objects had been removed when it was put there."""
        self.lease: tuple[str, str] | None = None
        """Hash and job under which its bytes count as stored once its commit is through."""
        with no_space_is_an_error(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
        self._writeback = EarlyWriteback(self._descriptor)

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            ObjectTooLarge: the upload has more bytes than it was to have.
            NoSpace: the disk is full.
        """
        if self.num_bytes + len(block) > self.limit_bytes:
            raise ObjectTooLarge(f"expected at most {self.limit_bytes} bytes")
        self._hasher.update(block)
        with no_space_is_an_error(self._path):
            write_at(self._descriptor, block, self.num_bytes)
        self.num_bytes += len(block)
        self._writeback.wrote(self.num_bytes)

    def seal(self, sha256: str) -> None:
        """Make the bytes durable, if their hash is `sha256`.

        Raises:
            ObjectCorrupt: they have another hash.
        """
        found = self._hasher.hexdigest()
        if found != sha256:
            raise ObjectCorrupt(f"expected bytes with the hash {sha256}, found {found}")
        with no_space_is_an_error(self._path):
            os.fsync(self._descriptor)

    @property
    def path(self) -> Path:
        """The temporary file."""
        return self._path

    def rename(self, final: Path) -> None:
        """Give the sealed file its final name; the commit that follows makes that durable."""
        with no_space_is_an_error(final):
            os.replace(self._path, final)

    def close(self) -> None:
        """Remove the temporary file if it was not renamed."""
        self._forget(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._path.unlink(missing_ok=True)


class ObjectStore:
    """The hub's repository.

    Args:
        folder: of the objects; may be on another disk than the ledger.
        bucket: in which the objects lie instead; uploads in progress are in `folder` all the same.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        ledger: HubDatabase,
        limits: HubLimits,
        *,
        bucket: Bucket | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.bucket = bucket
        self._num_removals = 0
        self._arriving: dict[Incoming, str] = {}  # the uploads in progress, with their parties
        self.folder = self._folder = folder
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        self.ledger = self._ledger = ledger
        self._clock = clock
        with no_space_is_an_error(folder):
            make_folder(self._incoming)
            for number in range(256):  # made now, so that no upload has to make a folder durable
                make_folder(self._objects / f"{number:02x}")
            fsync_dir(self._objects)
            fsync_dir(folder)

    def path(self, sha256: str) -> Path:
        """Return the path of an object's bytes; raise ObjectMissing if the name is not 64 hex digits."""
        if not SHA256.fullmatch(sha256):
            raise ObjectMissing("an object is named by 64 lower-case hex digits")
        return self._objects / sha256[:2] / sha256

    def begin(self, holder: Holder, size_bytes: int) -> Incoming:
        """Open an upload of `size_bytes`, which are set aside until it is over: many at once have no more room than one.

        Raises:
            ObjectTooLarge, NoSpace, NotPermitted: it is too large, or the disk or the party's share is full.
        """
        if size_bytes > self.limits.object_bytes:
            raise ObjectTooLarge(f"expected at most {self.limits.object_bytes} bytes, found {size_bytes}")
        # before the disk is looked at: what is written meanwhile then counts twice, and never not at all
        to_come = size_bytes + sum(one.limit_bytes - one.num_bytes for one in list(self._arriving))
        with no_space_is_an_error(self._folder):
            disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize - to_come < self.limits.reserve_bytes:
            raise NoSpace("the hub's disk is full: end jobs, or ask its owner for `fedjob hub gc`")
        own = [one for one, party in list(self._arriving.items()) if party == holder.party]
        stored, still_arriving = self._stored_of(holder.party, own)
        claimed = stored - still_arriving + size_bytes + sum(one.limit_bytes for one in own)
        if claimed > self.limits.party_bytes:
            raise NotPermitted(
                f"{holder.party} has {stored} of {self.limits.party_bytes} bytes stored, and with what is under way it "
                f"would have {claimed} (party_bytes): end a job first"
            )
        share = self.limits.party_disk_share
        if claimed > share * disk.f_blocks * disk.f_frsize:
            raise NotPermitted(
                f"{holder.party} has {stored} bytes stored, with what is under way it would have {claimed}, and it may "
                f"take {share:.0%} of the hub's disk (party_disk_share): end a job first"
            )
        incoming = Incoming(self._incoming, size_bytes, lambda one: self._arriving.pop(one, None))
        self._arriving[incoming] = holder.party
        return incoming

    def _stored_of(self, party: str, arriving: list[Incoming]) -> tuple[int, int]:
        """Return the bytes that a party has stored, and how many of them are of uploads that are not over yet.

        Args:
            arriving: the party's uploads. The commit of one may be through before the upload is over.
        """
        leases = [one.lease for one in arriving if one.lease is not None]
        rows = ", ".join("(?, ?)" for _ in leases)
        ended = f"SELECT sum(size_bytes) FROM leases WHERE owner = ?1 AND (sha256, job) IN (VALUES {rows})"
        found = self._ledger.read(  # in one statement, which no commit comes between
            f"SELECT (SELECT size_bytes FROM usage WHERE party = ?1), ({ended if leases else 'NULL'})",
            (party, *(word for lease in leases for word in lease)),
        )
        return found[0][0] or 0, found[0][1] or 0

    def ship(self, sha256: str, incoming: Incoming) -> None:
        """Put a sealed upload into the bucket, if there is one; `commit` follows.

        Raises:
            RepositoryUnreachable: the store does not answer, or refuses.
        """
        if self.bucket is not None:
            incoming.seen_removals = self._num_removals
            self.bucket.put(sha256, incoming.path)

    def commit(self, sha256: str, incoming: Incoming, holder: Holder) -> Future[None]:
        """Store a sealed upload under its hash and hold it for a job; done when that is durable.

        The bytes replace those of an earlier upload: putting an object again repairs
        one that the disk has corrupted.
        """

        def work(db: sqlite3.Connection) -> None:
            _hold(db, sha256, incoming.num_bytes, holder, self._clock(), self.limits)
            db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (sha256, incoming.num_bytes))
            if self.bucket is None:
                incoming.rename(path)
            elif incoming.seen_removals != self._num_removals:  # it may have been among those
                self.bucket.put(sha256, incoming.path)

        path = self.path(sha256)
        incoming.lease = sha256, holder.job
        return self._ledger.submit(work, folder=path.parent)

    def hold(self, sha256: str, holder: Holder) -> Future[bool]:
        """Hold an object for one more job without an upload, if it is there and this party may read it."""
        path = self.path(sha256)

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute("SELECT size_bytes FROM objects WHERE sha256 = ?", (sha256,)).fetchone()
            if found is None or not _may_read(db, sha256, holder.party):
                return False
            there = self.bucket.size(sha256) if self.bucket is not None else _size_of(path)
            if there != found[0]:
                return False
            _hold(db, sha256, found[0], holder, self._clock(), self.limits)
            return True

        return self._ledger.submit(work)

    def find(self, sha256: str, party: str) -> Path:
        """Return the path of an object for one of its readers.

        Raises:
            ObjectMissing: the hub has no such object, or none that this party may read: whoever guesses a content
                does not learn here whether it exists.
        """
        path = self.path(sha256)
        rows = self._ledger.read(
            "SELECT EXISTS (SELECT 1 FROM leases WHERE sha256 = ?1 AND owner = ?2),"
            " EXISTS (SELECT 1 FROM readers WHERE sha256 = ?1 AND reader = ?2)",
            (sha256, party),
        )
        if not any(rows[0]):
            raise ObjectMissing(f"the hub has no such object that {party} may read")
        return path

    def drop(self, sha256: str, job: str, party: str) -> Future[int]:
        """Release the hold of `party` on an object for a job; the future has the number of holds, 0 or 1.

        What else it holds stays: its other jobs may have objects of the same bytes.
        """
        self.path(sha256)

        def work(db: sqlite3.Connection) -> int:
            held = db.execute(
                "DELETE FROM leases WHERE sha256 = ? AND job = ? AND owner = ?", (sha256, job, party)
            ).rowcount
            self._remove_unheld(db, [sha256])
            return held

        return self._ledger.submit(work)

    def end_job(self, job: str, party: str) -> Future[int]:
        """Release every hold of a job; the future has their number.

        The researcher who first stored an object for the job owns it and ends it
        for every party; until there is an owner, a party releases its own holds only.
        """

        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT owner FROM jobs WHERE job = ?", (job,)).fetchone()
            owner = row[0] if row else None
            if owner not in (None, party):
                raise NotPermitted(f"{job} belongs to another researcher")
            whose = () if owner == party else (party,)
            return self._release(db, job, *whose)

        return self._ledger.submit(work)

    def clear_broken_off(self) -> None:
        """Remove what the uploads left that a kill of this hub broke off; to be called before it takes any."""
        for path in self._incoming.iterdir():
            if _OWN_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def sweep(self) -> Swept:
        """Remove the objects of expired jobs, and files that a crash left behind."""
        num_jobs = num_objects = 0
        freed = 0
        expired = self._ledger.read(
            "SELECT job FROM jobs WHERE active < ?", (self._clock() - self.limits.ttl_s,)
        )
        for (job,) in expired:

            def work(db: sqlite3.Connection, job: str = job) -> tuple[int, int]:
                shas = [
                    row[0] for row in db.execute("SELECT DISTINCT sha256 FROM leases WHERE job = ?", (job,))
                ]
                db.execute("DELETE FROM leases WHERE job = ?", (job,))
                db.execute("DELETE FROM jobs WHERE job = ?", (job,))
                _stop_watching(db, job)
                return self._remove_unheld(db, shas)

            count, size = self._ledger.write(work)
            num_jobs, num_objects, freed = num_jobs + 1, num_objects + count, freed + size
        num_files = 0
        for path in [*self._incoming.iterdir(), *self._objects.glob("??/*")]:
            if not _OWN_FILE.fullmatch(path.name):  # the folder is the owner's choice, and may hold more
                continue
            orphan = self._remove_orphan(path)
            if orphan is not None:
                num_files, freed = num_files + 1, freed + orphan
        for sha256, size, put_at in self.bucket.listed() if self.bucket is not None else ():
            if self._clock() - put_at > ORPHAN_S and SHA256.fullmatch(sha256) and self._remove_stray(sha256):
                num_files, freed = num_files + 1, freed + size
        return Swept(num_jobs, num_objects, num_files, freed)

    def drop_lost(self) -> int:
        """Forget the objects whose files are not there, so that whoever has them sends them again; return how many."""

        def work(db: sqlite3.Connection) -> int:
            lost = [sha for (sha,) in db.execute("SELECT sha256 FROM objects") if not self._has_bytes(sha)]
            for sha in lost:
                db.execute("DELETE FROM leases WHERE sha256 = ?", (sha,))
                db.execute("DELETE FROM objects WHERE sha256 = ?", (sha,))
            return len(lost)

        return self._ledger.write(work)

    def totals(self) -> tuple[int, int]:
        """Return the number of objects and their total size in bytes."""
        count, size = self._ledger.read("SELECT count(*), coalesce(sum(size_bytes), 0) FROM objects")[0]
        return int(count), int(size)

    def _release(self, db: sqlite3.Connection, job: str, *only: str) -> int:
        where, values = "job = ?", (job, *only)
        if only:
            where += " AND owner = ?"
        shas = [row[0] for row in db.execute(f"SELECT DISTINCT sha256 FROM leases WHERE {where}", values)]
        count = db.execute(f"DELETE FROM leases WHERE {where}", values).rowcount
        self._remove_unheld(db, shas)
        _stop_watching(db, job)
        return count

    def _remove_unheld(self, db: sqlite3.Connection, shas: list[str]) -> tuple[int, int]:
        """Remove those of the objects that no job holds; return their number and total size in bytes.

        Files are removed inside the transaction: an upload of the same object waits for
        the write lock, so that its new file is never the one removed. A crash before the
        commit leaves a row without a file, which the next upload repairs.
        """
        count = size = 0
        gone: list[str] = []
        for sha256 in shas:
            if db.execute("SELECT 1 FROM leases WHERE sha256 = ?", (sha256,)).fetchone() is None:
                row = db.execute("SELECT size_bytes FROM objects WHERE sha256 = ?", (sha256,)).fetchone()
                db.execute("DELETE FROM objects WHERE sha256 = ?", (sha256,))
                if self.bucket is None:
                    self.path(sha256).unlink(missing_ok=True)
                gone.append(sha256)
                count, size = count + 1, size + (row[0] if row else 0)
        if gone and self.bucket is not None:
            self._num_removals += 1
            self.bucket.remove(gone)
        return count, size

    def _has_bytes(self, sha256: str) -> bool:
        return self.path(sha256).exists() if self.bucket is None else self.bucket.size(sha256) is not None

    def _remove_stray(self, sha256: str) -> bool:
        """Remove an object of the bucket that the ledger does not know; return whether it was one."""

        def work(db: sqlite3.Connection) -> bool:
            known = db.execute("SELECT 1 FROM objects WHERE sha256 = ?", (sha256,)).fetchone()
            if known is None and self.bucket is not None:
                self._num_removals += 1
                self.bucket.remove([sha256])
            return known is None

        known = self._ledger.read("SELECT 1 FROM objects WHERE sha256 = ?", (sha256,))
        return not known and self._ledger.write(work)

    def _remove_orphan(self, path: Path) -> int | None:
        def is_old() -> bool:
            return self._clock() - path.stat().st_mtime > ORPHAN_S

        def work(db: sqlite3.Connection) -> int | None:
            # Looked up again under the write lock: the object may have been put in the meantime.
            known = db.execute("SELECT 1 FROM objects WHERE sha256 = ?", (path.name,)).fetchone()
            if known is not None or not is_old():
                return None
            size = path.stat().st_size
            path.unlink()
            return size

        with contextlib.suppress(FileNotFoundError):
            known = self._ledger.read("SELECT 1 FROM objects WHERE sha256 = ?", (path.name,))
            if not known and is_old():
                return self._ledger.write(work)
        return None


def _hold(
    db: sqlite3.Connection, sha256: str, size_bytes: int, holder: Holder, now: float, limits: HubLimits
) -> None:
    row = db.execute("SELECT owner FROM jobs WHERE job = ?", (holder.job,)).fetchone()
    owner = row[0] if row else None
    if holder.role == "researcher":
        if owner not in (None, holder.party):
            raise NotPermitted(f"{holder.job} belongs to another researcher")
        owner = holder.party
    db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", (holder.job, owner, now))
    db.execute(
        "INSERT OR IGNORE INTO leases VALUES (?, ?, ?, ?)", (sha256, holder.job, holder.party, size_bytes)
    )
    db.executemany(
        "INSERT OR IGNORE INTO readers VALUES (?, ?, ?, ?)",
        [(sha256, reader, holder.job, holder.party) for reader in holder.readers],
    )
    (held,) = db.execute("SELECT num_objects FROM usage WHERE party = ?", (holder.party,)).fetchone()
    if held > limits.party_objects:
        raise NotPermitted(
            f"{holder.party} has {limits.party_objects} objects stored, as many as it may (party_objects): end a job first"
        )


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _stop_watching(db: sqlite3.Connection, job: str) -> None:
    """Delete the watch frame whose objects `job` held, see `fedjob/hub/server/watches.py`."""
    if job.endswith(WATCH):
        db.execute("DELETE FROM watches WHERE job = ?", (job.removesuffix(WATCH),))


def _may_read(db: sqlite3.Connection, sha256: str, party: str) -> bool:
    found = db.execute(
        "SELECT EXISTS (SELECT 1 FROM leases WHERE sha256 = ?1 AND owner = ?2)"
        " OR EXISTS (SELECT 1 FROM readers WHERE sha256 = ?1 AND reader = ?2)",
        (sha256, party),
    ).fetchone()
    return bool(found[0])
