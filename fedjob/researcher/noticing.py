"""Whoever looks at a job notices when the process that ran it is gone, and says so in its place."""

from __future__ import annotations

from collections.abc import Sequence

from fedjob.common.errors import JobError
from fedjob.common.lifecycle import ACTIVE, State
from fedjob.researcher.event_log import EventLog
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.record import JobRecord, load_record, utc_now
from fedjob.researcher.transition import moved

RUNNER_DIED = "runner_died"


def notice(folder: JobFolder) -> JobRecord:
    """Return the job's record; a job that was active and that nobody runs any more is `lost` from now on.

    A job that still waits when its runner is gone lost nothing: it stays as it is.
    """
    record = load_record(folder.record)
    if record.state not in ACTIVE or folder.is_held():
        return record
    try:
        with folder.locked(wait_s=0.0):
            record = load_record(folder.record)
            if record.state in ACTIVE:
                record = walk(folder, record, [State.LOST], RUNNER_DIED, "the process that ran it is gone")
    except JobError:  # somebody else notices, or runs it again
        record = load_record(folder.record)
    return record


def walk(
    folder: JobFolder, record: JobRecord, states: Sequence[State], reason: str = "", detail: str = ""
) -> JobRecord:
    """Take a job through states, for the process that holds its lock and does not run it."""
    with EventLog(folder.events, folder.path.name) as events:
        for state in states:
            record = moved(record, state, now=utc_now(), reason=reason, detail=detail)
            record.save(folder.record)
            events.add("state", state=record.state, reason=reason, detail=detail[:500])
    return record
