"""The submissions of a home: a token names one job for good, whatever crashes in between.

A row is `creating` before anything is sent and `created` once the job stands;
when the job is deleted it stays, as `job_deleted`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import ConfigError, SpecError, SubmitError, TokenConflict, TokenDeleted
from fedjob.common.files import make_folder, open_locked, write_atomic
from fedjob.identity.keys import SealKey, verify
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.index import SCHEMA, SUBMISSION_FIELDS, open_index

SUBMIT_S = 30.0
"""Seconds that a submission waits for another one of the same home."""

_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_FIELDS = ", ".join(SUBMISSION_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One submission of a home.

    Args:
        token: empty for none.
        state: `creating`, `created` or `job_deleted`.
        spec_hash: of everything that was asked for.
        submitted_from: folder or zip archive, see `JobRecord`.
    """

    token: str
    state: str
    job_id: str
    name: str
    spec_hash: str
    project: str
    owner: str
    time: str
    submitted_from: str = ""
    schema: int = SCHEMA
    deleted_by: str = ""
    deleted_time: str = ""


def check_token(token: str) -> str:
    """Return `token` if it may be one.

    Raises:
        SpecError: it may not.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise SpecError(f"a submit token is 1 to 128 of A-Z a-z 0-9 . _ : -; found {str(token)[:140]!r}")
    return token


def seal_job(folder: JobFolder) -> None:
    """Sign a job that is submitted from its home: only what is signed so begins again by itself."""
    home = folder.path.parent.parent
    write_atomic(folder.seal, SealKey(home).sign(_sealed(folder)).hex().encode() + b"\n")


def is_sealed(folder: JobFolder) -> bool:
    """Return whether a job was submitted from the home that it lies in, and asks for what it asked for then."""
    try:
        signature = bytes.fromhex(folder.seal.read_text(encoding="ascii").strip())
        key_hex = SealKey.public_of(folder.path.parent.parent)
        return bool(key_hex) and verify(key_hex, signature, _sealed(folder))
    except (OSError, ValueError, ConfigError):
        return False


def _sealed(folder: JobFolder) -> bytes:
    """Return what is signed: the job's name, and all that says what runs at this machine and at nodes."""
    files = [folder.spec, folder.plan, *sorted((folder.path / "plans").glob("*.py"))]
    hashes = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files if path.exists()]
    return b"fedjob job\n" + pack([folder.path.name, hashes])


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Hold back other submissions of this home; a process that dies lets go.

    Raises:
        SubmitError: another one takes too long.
    """
    make_folder(home)
    descriptor = open_locked(home / "submit.lock", wait_s=SUBMIT_S)
    if descriptor is None:
        raise SubmitError(f"another submission of {home} takes more than {SUBMIT_S:.0f} s: submit again")
    try:
        yield
    finally:
        os.close(descriptor)


def begin(home: Path, wanted: Submission) -> Submission:
    """Record a submission that begins; return it, or the one that its token belongs to already.

    Raises:
        TokenConflict: the token was used for other content.
        TokenDeleted: the token's job was deleted.
    """
    with open_index(home) as index:
        found = _of_token(index, wanted) if wanted.token else None
        if found is None:
            _put(index, wanted)
            return wanted
        if found.state == "job_deleted":
            raise TokenDeleted(
                f"token {wanted.token!r} belongs to job {found.job_id}, which {found.deleted_by or 'its owner'} "
                f"deleted at {found.deleted_time}: submit with another token to run it anew"
            )
        if found.spec_hash != wanted.spec_hash:
            raise TokenConflict(
                f"token {wanted.token!r} belongs to job {found.job_id}, which was asked for with other arguments: "
                "submit this one with another token"
            )
        if not (home / "jobs" / found.job_id).is_dir():  # taken away by hand: this one is in its place
            index.execute("DELETE FROM submissions WHERE job_id = ?", (found.job_id,))
            _put(index, wanted)
            return wanted
        return found


def created(home: Path, job_id: str) -> None:
    """Record that a submission's job stands."""
    with open_index(home) as index:
        index.execute("UPDATE submissions SET state = 'created' WHERE job_id = ?", (job_id,))


def withdrawn(home: Path, job_id: str) -> None:
    """Forget a submission that failed before the job stood; its token is free again."""
    with open_index(home) as index:
        index.execute("DELETE FROM submissions WHERE job_id = ? AND state = 'creating'", (job_id,))


def deleted(home: Path, submission: Submission) -> None:
    """Record that a job was deleted; it is never made again by its token."""
    tombstones = home / "tombstones"
    make_folder(tombstones)
    plain = json.dumps(asdict(submission), indent=1) + "\n"
    write_atomic(tombstones / f"{submission.job_id}.json", plain.encode())
    with open_index(home) as index:
        _put(index, submission)
        index.execute("DELETE FROM jobs WHERE id = ?", (submission.job_id,))


def list_submissions(home: Path, token: str | None = None) -> list[Submission]:
    """Return a home's submissions, those of deleted jobs included, oldest first.

    Args:
        token: only those with this token.
    """
    if not home.is_dir():
        return []
    with open_index(home) as index:
        rows = index.execute(f"SELECT {_FIELDS} FROM submissions ORDER BY time").fetchall()
    found = [_from(row) for row in rows]
    return [s for s in found if token is None or s.token == token]


def _of_token(index: sqlite3.Connection, wanted: Submission) -> Submission | None:
    row = index.execute(
        f"SELECT {_FIELDS} FROM submissions WHERE project = ? AND owner = ? AND token = ?",
        (wanted.project, wanted.owner, wanted.token),
    ).fetchone()
    return None if row is None else _from(row)


def _put(index: sqlite3.Connection, submission: Submission) -> None:
    values: list[Any] = [getattr(submission, name) for name in _FIELDS.split(", ")]
    index.execute(
        f"INSERT OR REPLACE INTO submissions ({_FIELDS}) VALUES ({', '.join('?' * len(values))})", values
    )


def _from(row: sqlite3.Row) -> Submission:
    return Submission(**dict(row))
