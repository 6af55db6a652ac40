"""A job's growing half: its state, the reason, its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.durable import write_atomic
from fedjob.common.errors import DecodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What is written whenever a job's state changes.

    Args:
        state: see `common/lifecycle.py`.
        reason: why it ended like that, one word; empty while it goes well.
        attempt: counts the runs of this job, from 1.
        epoch: grows with every start of a runner; nodes refuse an older one.
        rounds: how many rounds the job is for, by now.
        grants: node -> `{state, origin, by, note, decided, until, limits}`, as the nodes last said.
        tries: how often scheduling was tried in this attempt.
        participants: nodes whose reply counted in a round.
    """

    state: str = "draft"
    reason: str = ""
    detail: str = ""
    attempt: int = 0
    epoch: int = 0
    rounds: int = 0
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    tries: int = 0
    participants: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the record, durably."""
        write_atomic(path, pack(to_plain(self)))


def load_record(path: Path) -> JobRecord:
    """Read a record; a fresh one where there is none."""
    try:
        return from_plain(JobRecord, unpack(path.read_bytes()))
    except (OSError, DecodeError):
        return JobRecord()
