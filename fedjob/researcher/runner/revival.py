"""The look at a job from any process: one whose runner is gone is begun again, or recorded as lost, and said so.

A job is never left as if somebody ran it. Whoever looks finds one of three:

- it was active when its runner died: it is `lost (runner_died)`, and a restart continues from its last breakpoint;
- it had been submitted and had not begun: whoever looks begins it again, and an event and the log say so. A folder
  that was put into the home, or changed in it, is never begun by a look: it would run somebody else's plan;
- it had not begun and ran inside a process (`job.run()`): that process is gone with its hooks, so it is lost, too.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedjob.common.errors import JobError, RecordUnreadable, SubmitError
from fedjob.common.lifecycle import ACTIVE, PENDING, State
from fedjob.researcher.runner.launch import start_runner
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.index import list_entries
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.submissions import is_sealed
from fedjob.researcher.storage.transitions import RUNNER_DIED, notice, walk

_log = logging.getLogger("fedjob")

AGAIN_S = 10.0
"""A job whose runners keep dying is begun again at most so often."""

Start = Callable[[JobFolder, int], int]
"""Starts a runner that takes over a lock's descriptor; returns its process id. See `launch.start_runner`."""


def look(folder: JobFolder, start: Start = start_runner) -> JobRecord:
    """Return a job's record as it stands once its runner's death, if it died, has had its consequences.

    Args:
        start: of a runner.
    """
    record = notice(folder)
    if record.state in PENDING and record.detached and not folder.is_held():
        if not is_sealed(folder):
            _warn_of_foreign(folder, record)
            return record
        try:
            begun = begin_again(folder, start)
        except SubmitError as error:  # nothing is lost: the next look tries again
            _log.warning("%s", error)
            return record
        record = load_record(folder.record)
        if not begun and not runs(folder, record):
            _warn_once(folder, record)
    return record


_warned: dict[Path, float] = {}
"""Folder of a job -> the last new beginning after which it was said that nobody runs it."""


def _warn_of_foreign(folder: JobFolder, record: JobRecord) -> None:
    if _warned.get(folder.path) != record.begun_again:
        _warned[folder.path] = record.begun_again
        _log.warning("%s", _foreign(folder))


def _foreign(folder: JobFolder) -> str:
    return (
        f"job {folder.path.name} lies in this home and was not submitted from it as it is: nothing of it is run by "
        f"itself; Job.resume({str(folder.path)!r}) shows whose plan it is"
    )


def _warn_once(folder: JobFolder, record: JobRecord) -> None:
    """Say that nobody runs a job, once after every time that it was begun again."""
    if _warned.get(folder.path) != record.begun_again:
        _warned[folder.path] = record.begun_again
        left_s = max(0.0, record.begun_again + AGAIN_S - time.time())
        _log.warning(
            "job %s is %s and nobody runs it: its runner died again; it is begun once more by whoever looks after %.0f s",
            folder.path.name,
            record.state,
            left_s,
        )


def runs(folder: JobFolder, record: JobRecord) -> bool:
    """Return whether a process works at a job that is neither a draft nor at its end."""
    return record.state not in PENDING | ACTIVE or folder.is_held()


def begin_again(folder: JobFolder, start: Start = start_runner, *, at_once: bool = False) -> bool:
    """Begin a submitted job again whose runner died before it began; return whether this did.

    Args:
        at_once: also within `AGAIN_S` of the last time.

    Raises:
        SubmitError: no process can be started; or the job was not submitted from this home.
    """
    before = folder.holder()
    try:
        lock = folder.take(0.0)
    except JobError:  # somebody else looks at it right now, or runs it
        return False
    try:
        record = load_record(folder.record)
        soon = time.time() - record.begun_again < AGAIN_S
        if record.state not in PENDING or not record.detached or (soon and not at_once):
            os.close(lock)
            return False
        if not is_sealed(folder):
            raise SubmitError(_foreign(folder))
        text = f"the process that ran it ({before or 'unknown'}) is gone: begun again"
        replace(record, begun_again=time.time()).save(folder.record)
        with EventLog(folder.events, folder.path.name) as events:
            events.add("note", text=text)
    except BaseException:
        os.close(lock)
        raise
    pid = start(folder, lock)
    _log.warning("job %s is %s: %s, by process %d", folder.path.name, record.state, text, pid)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What was done about a job that nobody ran.

    Args:
        state: before.
        done: in words.
    """

    job: str
    name: str
    state: str
    done: str


def resume_all(home: Path, *, lost: bool = False, start: Start = start_runner) -> list[Resumption]:
    """Begin every submitted job of a home again that nobody runs, as after a reboot.

    Jobs that had begun continue from their last breakpoint, as their next attempt. Jobs of `job.run()` are not
    begun by anybody but their owner: they are recorded as lost.

    Args:
        lost: also jobs that were found lost before, because their runners died.

    Returns:
        What was done, a job each, in the order of submission.
    """
    done = []
    for entry in list_entries(home):
        folder = JobFolder(home / "jobs" / entry.id)
        try:
            before = load_record(folder.record)
        except RecordUnreadable:
            continue
        died = before.state == State.LOST and before.reason == RUNNER_DIED
        if not (lost and died) and (before.state not in PENDING | ACTIVE or folder.is_held()):
            continue
        what = _resume(folder, start)
        if what:
            done.append(Resumption(job=entry.id, name=entry.name, state=before.state, done=what))
    return done


def _resume(folder: JobFolder, start: Start) -> str:
    """Begin one job again; return what was done, empty where somebody else was quicker."""
    try:
        record = notice(folder)
        if not record.detached:
            return f"{record.state}: it ran inside a process that is gone; job.restart() begins it again"
        if record.state in PENDING:
            return "begun again" if begin_again(folder, start, at_once=True) else ""
        if record.state != State.LOST:
            return ""
        if not is_sealed(folder):
            return _foreign(folder)
        lock = folder.take(0.0)
    except SubmitError as error:
        return f"not begun again: {error}"
    except JobError:
        return ""
    try:
        walk(folder, load_record(folder.record), [State.WAITING])
    except BaseException:
        os.close(lock)
        raise
    try:
        start(folder, lock)
    except SubmitError as error:
        return f"not begun again: {error}"
    return "restarted from its last breakpoint"
