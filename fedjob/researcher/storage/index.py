"""`<home>/jobs.sqlite`: the submissions of a home, and an index of its jobs.

The jobs' folders are the truth. The index holds what a list shows, and is brought
up to date by whoever lists: rows whose record has changed since are read again,
rows without a folder go. A file that was lost is made again, submissions included.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.files import touch_private
from fedjob.identity.membership import MEMBERSHIP_NAME, load_membership
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record
from fedjob.researcher.storage.spec import load_spec

BUSY_S = 10.0
LAYOUT = 2
"""Of the index; it grows when a column comes, and the index is then made again from the jobs' folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry:
    """The fields of a job that a list shows.

    Args:
        plan: sha256 of its text, and its class.
        seen: its record's time of change, in nanoseconds.
    """

    id: str
    name: str = ""
    project: str = ""
    protocol: str = ""
    plan: str = ""
    state: str = ""
    reason: str = ""
    attempt: int = 0
    rounds: int = 0
    created: str = ""
    submitted: str = ""
    started: str = ""
    finished: str = ""
    token: str = ""
    cloned_from: str = ""
    seen: int = 0


SCHEMA = 1
"""Of a submission."""

SUBMISSION_FIELDS = (
    "job_id",
    "token",
    "state",
    "name",
    "spec_hash",
    "project",
    "owner",
    "time",
    "submitted_from",
    "schema",
    "deleted_by",
    "deleted_time",
)

_COLUMNS = tuple(f.name for f in fields(JobEntry))
_TABLES = f"""
CREATE TABLE IF NOT EXISTS jobs ({", ".join("id TEXT PRIMARY KEY" if c == "id" else c for c in _COLUMNS)});
CREATE TABLE IF NOT EXISTS submissions (
    job_id TEXT PRIMARY KEY, token TEXT NOT NULL, state TEXT NOT NULL, name TEXT NOT NULL,
    spec_hash TEXT NOT NULL, project TEXT NOT NULL, owner TEXT NOT NULL, time TEXT NOT NULL,
    submitted_from TEXT NOT NULL DEFAULT '',
    schema INTEGER NOT NULL, deleted_by TEXT NOT NULL DEFAULT '', deleted_time TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX IF NOT EXISTS one_token ON submissions (project, owner, token) WHERE token != '';
"""


@contextmanager
def open_index(home: Path) -> Iterator[sqlite3.Connection]:
    """Open a home's index; what is done inside is one transaction.

    Raises:
        ConfigError: it can't be opened, or is busy for too long.
    """
    path = home / "jobs.sqlite"
    try:
        touch_private(path)  # SQLite gives its other files the mode of this one
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{path} can't be opened: {error}") from error
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
            connection.execute("DROP TABLE IF EXISTS jobs")
            connection.execute("DROP TABLE IF EXISTS submissions")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {LAYOUT}")
            _remember_submissions(connection, home)
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise ConfigError(f"{path} can't be used: {error}") from error
    finally:
        connection.close()


def list_entries(home: Path) -> list[JobEntry]:
    """Return what is to be known of every job of a home, in order of submission; drafts come last."""
    jobs = home / "jobs"
    if not jobs.is_dir():
        return []
    with open_index(home) as index:
        known = {row["id"]: JobEntry(**dict(row)) for row in index.execute("SELECT * FROM jobs")}
        entries, changed = [], []
        for path in jobs.glob("job_*"):
            folder = JobFolder(path)
            try:
                seen = folder.record.stat().st_mtime_ns
            except OSError:
                seen = 0
            entry = known.pop(path.name, None)
            if entry is None or entry.seen != seen:
                entry = read_entry(folder, seen)
                changed.append(astuple(entry))
            entries.append(entry)
        marks = ", ".join("?" * len(_COLUMNS))
        index.executemany(f"INSERT OR REPLACE INTO jobs VALUES ({marks})", changed)
        index.executemany("DELETE FROM jobs WHERE id = ?", [(id_,) for id_ in known])
    return sorted(entries, key=lambda e: (e.submitted or "~", e.created, e.id))


def read_entry(folder: JobFolder, seen: int = 0) -> JobEntry:
    """Return what a job's folder says; what can't be read is in state `unreadable`, with the reason."""
    try:
        record = load_record(folder.record)
        spec = load_spec(folder.spec)
    except FedjobError as error:
        return JobEntry(id=folder.path.name, state="unreadable", reason=str(error), seen=seen)
    return JobEntry(
        id=folder.path.name,
        name=spec.name,
        project=spec.project,
        protocol=spec.protocol.name,
        plan=f"{spec.plan_hash} {spec.plan_entry}".strip(),
        state=record.state,
        reason=record.reason,
        attempt=record.attempt,
        rounds=record.rounds,
        created=record.created,
        submitted=record.submitted,
        started=record.started,
        finished=record.finished,
        token=record.token,
        cloned_from=spec.cloned_from,
        seen=seen,
    )


def _remember_submissions(index: sqlite3.Connection, home: Path) -> None:
    """Fill in what a new file must know: the submissions of the jobs that are there, and of deleted ones."""
    rows: list[tuple[object, ...]] = []
    for path in (home / "jobs").glob("job_*"):
        entry = read_entry(JobFolder(path))
        if entry.submitted:
            record, owner = load_record(JobFolder(path).record), owner_of(home)
            asked = (entry.name, record.content_hash, entry.project, owner, entry.submitted)
            columns = (*asked, record.submitted_from, SCHEMA, "", "")
            rows.append((entry.id, entry.token, "created", *columns))
    for path in (home / "tombstones").glob("job_*.json"):
        with suppress(OSError, ValueError, KeyError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            rows.append(tuple(kept[name] for name in SUBMISSION_FIELDS))
    marks = ", ".join("?" * len(SUBMISSION_FIELDS))
    names = ", ".join(SUBMISSION_FIELDS)
    index.executemany(f"INSERT OR IGNORE INTO submissions ({names}) VALUES ({marks})", rows)


def owner_of(home: Path) -> str:
    """Return the party that a home belongs to; empty for one that joined no federation."""
    return load_membership(home).party if (home / MEMBERSHIP_NAME).exists() else ""
