"""The control of a job from any process: cancel, stop and kill; where nobody runs it, they record its end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from fedjob.common.errors import JobError
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.transitions import notice, route, walk

CANCEL_S = 15.0
"""A runner looks into its inbox at least every second; one that does not for so long is stuck."""

KILL_S = 15.0
_LOOK_S = 0.05


def cancel(folder: JobFolder, timeout_s: float = CANCEL_S) -> bool:
    """Withdraw a job that waits or is queued; return whether it was withdrawn. A job that has begun goes on.

    Args:
        timeout_s: for the process that runs it to obey.

    Raises:
        JobError: that process does not answer.
    """
    if notice(folder).state not in PENDING:
        return False
    inbox.leave(folder, inbox.CANCEL)
    try:
        record = _until_ended(folder, timeout_s, unless=ACTIVE)
    finally:
        inbox.clear(folder, inbox.CANCEL)
    if record.state in PENDING:
        raise JobError(_stuck(folder, "cancel"))
    return record.state == State.CANCELLED


def stop(folder: JobFolder) -> bool:
    """Have a job that has begun end between two rounds; return whether it has begun, and not ended."""
    if notice(folder).state not in ACTIVE:
        return False
    inbox.leave(folder, inbox.STOP)
    return True


def kill(folder: JobFolder, timeout_s: float = KILL_S) -> bool:
    """End a job wherever it stands; return whether this ended it. A job that had not begun is `cancelled`.

    Args:
        timeout_s: for the process that runs it to obey; a detached one is terminated then.

    Raises:
        JobError: the job runs inside another process, which does not answer.
    """
    before = notice(folder).state
    if before in HISTORY or before == State.DRAFT:
        return False
    inbox.leave(folder, inbox.KILL)
    try:
        record = _until_ended(folder, timeout_s)
        if record.state not in HISTORY and _terminate(folder):
            record = _until_ended(folder, 5.0)
    finally:
        inbox.clear(folder, inbox.KILL)
    if record.state not in HISTORY:
        raise JobError(_stuck(folder, "kill"))
    return record.state in (State.KILLED, State.CANCELLED)


def _until_ended(folder: JobFolder, timeout_s: float, unless: frozenset[State] = frozenset()) -> JobRecord:
    """Return the record once the job has ended, or stands where a verb comes too late, or time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        record = load_record(folder.record)
        if record.state in HISTORY or record.state in unless or time.monotonic() > deadline:
            return record
        if not folder.is_held():
            with suppress(JobError), folder.locked(wait_s=0.0):
                record = load_record(folder.record)
                if record.state not in HISTORY and record.state not in unless:
                    verb = inbox.asked(folder) or inbox.KILL
                    reason = "cancelled" if verb == inbox.CANCEL else "killed"
                    return walk(folder, record, route(record.state, "killed"), reason)
        time.sleep(_LOOK_S)


def _terminate(folder: JobFolder) -> bool:
    """End a detached runner that does not obey; a process that does other things too is left alone."""
    pid = folder.holder()
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return not folder.is_held()
    if b"fedjob.researcher.jobs.runner_process" not in command or os.fsencode(folder.path) not in command:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def _stuck(folder: JobFolder, verb: str) -> str:
    return (
        f"{folder.path.name} is run by process {folder.holder()}, which does not obey {verb!r}: "
        "end that process, then the job counts as lost"
    )
