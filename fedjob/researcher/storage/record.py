"""A job's growing half: its state, the reason, its attempts, its times; plain JSON on disk.

`schema` is `major.minor`. A later minor version may add fields, which an older
fedjob leaves alone; a later major version is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, RecordUnreadable
from fedjob.common.files import write_atomic

SCHEMA = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """One earlier run of a job, as it ended."""

    attempt: int
    state: str
    reason: str = ""
    started: str = ""
    finished: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The record of a job, written whenever its state changes. Times are UTC, ISO 8601, sortable as text.

    Args:
        state: see `common/lifecycle.py`.
        reason: why it ended like that, one of `common/reasons.py`; empty while it goes well.
        attempt: counts the runs of this job, from 1.
        epoch: grows with every start of a runner; nodes refuse an older one.
        rounds: how many rounds the job is for, by now.
        created: when the job was defined.
        submitted: when it was first handed over, in whatever way.
        started: when this attempt first stood at `running`.
        finished: when this attempt ended.
        past: earlier attempts, oldest first.
        grants: node -> `{state, reason, grant, origin, needs, by, note, when, until, limits, contact, sandbox,
            privacy, since}`,
            as the nodes last reported; `when` (decided), `until` and `since` are seconds since 1970.
        tries: how often scheduling was tried in this attempt.
        participants: nodes that were asked in a committed round -> empty where their reply counted in the
            last one that they were asked in, else why they were dropped.
        absent: nodes that could have taken part and were never asked -> why: they did not answer the search
            for data, their owners refused, or they could not start.
        rows: node -> its rows `registered`, `read` and `used`, as its last answer that counts reported them.
        sandboxes: node -> the sandbox that its last answer was computed in, see `Pong`; `none` for none.
        privacy: node -> the `epsilon` that the job has spent there, with its `delta`, as its last answer reported it; for
            jobs with differential privacy.
        deployment: plan (`Class@sha256`) -> nodes that it runs at.
        asked: what the constructor was given as `data` and `nodes`, as plain data.
        content_hash: sha256 of everything that was asked for, whatever the job's id.
        token: that it was submitted with.
        submitted_from: the folder or zip archive that it was submitted from: of its `job.json`, of the script that
            defines it, or the working folder of whoever submitted it. An absolute path.
        begin: name of the breakpoint that this attempt goes on from, until it saves one itself; empty for the newest.
        further: this attempt goes on where a hook ended an earlier one.
        detached: this attempt has a runner of its own, as `submit` and `restart` give it one, which any process of
            the home may start again; False for `job.run()`, which ends with its process.
        begun_again: when a runner that had died was started again last, seconds since 1970; 0 for never.
        keep_files: folder that plan, parameters and replies of every round are put into.
    """

    schema: str = SCHEMA
    state: str = "draft"
    reason: str = ""
    detail: str = ""
    attempt: int = 0
    epoch: int = 0
    rounds: int = 0
    created: str = ""
    submitted: str = ""
    started: str = ""
    finished: str = ""
    past: list[PastAttempt] = field(default_factory=list)
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    tries: int = 0
    participants: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    sandboxes: dict[str, str] = field(default_factory=dict)
    privacy: dict[str, dict[str, float]] = field(default_factory=dict)
    deployment: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    content_hash: str = ""
    token: str = ""
    submitted_from: str = ""
    begin: str = ""
    further: bool = False
    detached: bool = False
    begun_again: float = 0.0
    keep_files: str = ""

    def save(self, path: Path) -> None:
        """Write the record, durably."""
        # a line for each field: with an indent inside of them, ten thousand nodes take as long as a node's training
        lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in to_plain(self).items())
        write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def load_record(path: Path) -> JobRecord:
    """Read a record; a fresh one where there is none.

    Raises:
        RecordUnreadable: it is damaged, or a newer fedjob wrote it.
    """
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        return JobRecord()
    except (OSError, ValueError) as error:
        raise RecordUnreadable(f"the record at {path} can't be read: {error}") from error
    schema = str(plain.get("schema", "")) if isinstance(plain, dict) else ""
    major = schema.partition(".")[0]
    if not major.isdigit():
        raise RecordUnreadable(f"{path} is no record of a job: it names no schema")
    if int(major) > int(SCHEMA.partition(".")[0]):
        raise RecordUnreadable(
            f"the record at {path} has schema {schema}, this fedjob reads up to {SCHEMA}: "
            "open it with the fedjob that wrote it, or a newer one"
        )
    known = {f.name for f in fields(JobRecord)}
    try:
        return from_plain(JobRecord, {key: value for key, value in plain.items() if key in known})
    except DecodeError as error:
        raise RecordUnreadable(f"the record at {path} can't be read: {error}") from error


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a node by name, without those that are none, such as NaN."""
    return {name: float(value) for name, value in numbers.items() if is_number(value)}


def privacy_in_words(spent: Mapping[str, float]) -> str:
    """Return what a job has spent at a node, `epsilon 1.98 (delta 1e-05)`."""
    return f"epsilon {spent.get('epsilon', math.nan):.4g} (delta {spent.get('delta', math.nan):g})"


def working_folder() -> str:
    """Return the absolute path of this process's working folder; empty where it was removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def utc_now() -> str:
    """Return the time as the record writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds_between(begin: str, end: str) -> float:
    """Return the seconds from one time of a record to another."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
