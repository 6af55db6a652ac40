"""The wait for a job from any process on its home, by reading its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from fedjob.common.errors import JobFailed, NotReady, SpecError, WaitTimeout
from fedjob.common.lifecycle import HISTORY, State
from fedjob.researcher.monitoring.stream import FolderSource, JobStanding, ended_error, gone, looks
from fedjob.researcher.runner.control import kill
from fedjob.researcher.runner.revival import look
from fedjob.researcher.storage.event import JobEvent, is_job_state
from fedjob.researcher.storage.event_log import EventFile
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord

_REFUSED = ("rejected", "revoked")


def wait_for(
    folder: JobFolder,
    *,
    timeout_s: float | None = None,
    for_grants: bool = True,
    tell: Callable[[JobEvent], None] | None = None,
) -> JobRecord:
    """Return the job's record once it is completed; without `for_grants` also while owners have to decide.

    Args:
        timeout_s: None waits as long as it takes.
        for_grants: False returns as soon as it is known that an owner has to decide.
        tell: called with each event of this attempt as it comes.

    Raises:
        NodeRefused: it was rejected; names the nodes whose owners did.
        JobFailed: it ended otherwise; carries outcome and reason.
        WaitTimeout: it goes on, but time is up.
        NotReady: it is a draft.
        NoSuchJob: it was deleted.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    events = _WaitedFor(folder)
    waits_for_owners = False
    for found in looks(events, eager=True, sleep=lambda pause_s: _sleep(pause_s, deadline)):
        record = events.record
        for event in found.batch:
            if event.type == "grant" and "waiting" in event.body:
                waits_for_owners = bool(event.body["waiting"])
            if tell is not None:
                tell(event)
        late = deadline is not None and time.monotonic() > deadline
        if found.batch and not late:
            continue  # the state was read before these events: there may be more
        if record.state == State.DRAFT:
            raise NotReady(f"{folder.path.name} is a draft: job.submit() it first")
        if record.state in HISTORY and not (found.settled or late):
            continue  # its last event follows, for whoever looks on
        if record.state == State.COMPLETED:
            return record
        if record.state in HISTORY:
            raise _error_of(folder.path.name, record)
        if not for_grants and record.state == State.WAITING and waits_for_owners:
            return record
        if late:
            break
    raise WaitTimeout(
        f"{folder.path.name} is still {record.state} after {timeout_s:g} s; it goes on: wait again, or job.kill() it"
    )


class _WaitedFor(FolderSource):
    """The events of a job's attempt from its folder, and the record that each look found."""

    idle_s = 0.3

    def __init__(self, folder: JobFolder) -> None:
        super().__init__(folder, _before_attempt(folder))
        self.record = JobRecord()

    def standing(self) -> JobStanding:
        if not self._folder.spec.exists():
            raise gone(self._folder)
        self.record = look(self._folder)
        return JobStanding(str(self.record.state), self.record.reason, self.record.detail)


def _sleep(pause_s: float, deadline: float | None) -> None:
    """Wait, but not longer than to a deadline of the monotonic clock."""
    time.sleep(pause_s if deadline is None else max(0.0, min(pause_s, deadline - time.monotonic())))


def _error_of(id_: str, record: JobRecord) -> JobFailed:
    """Return the error that says how a job ended; a rejected one names the nodes whose owners refused it."""
    standing = JobStanding(str(record.state), record.reason, record.detail)
    refused = None
    if record.state == State.REJECTED:
        refused = {
            node: str(grant.get("note") or grant["state"])
            for node, grant in record.grants.items()
            if grant["state"] in _REFUSED
        }
    return ended_error(standing, id_, refused)


def _before_attempt(folder: JobFolder) -> int:
    """Return the number of the last event before this attempt."""
    before = 0
    reader = EventFile(folder.events)
    began = False
    while batch := reader.read():
        for event in batch:
            if is_job_state(event):
                if event.body.get("state") in HISTORY:
                    began = False
                elif not began:
                    began, before = True, event.seq - 1
    return before


INTERRUPTS = ("ask", "leave", "kill")

Attend = Callable[[], AbstractContextManager[Callable[[JobEvent], None] | None]]
"""Opens the display of events for whoever waits; yields the function to call with each event."""


def wait_through(
    folder: JobFolder,
    attend: Attend,
    *,
    timeout_s: float | None = None,
    for_grants: bool = True,
    on_interrupt: str = "ask",
) -> JobRecord:
    """Wait as `wait_for` does, and handle an interrupt as `on_interrupt` asks.

    Args:
        on_interrupt: `ask` in a terminal, and leave the job running anywhere else; `leave`; or `kill`.

    Raises:
        KeyboardInterrupt: interrupted, and the job left running.
    """
    if on_interrupt not in INTERRUPTS:
        raise SpecError(f"on_interrupt is one of {', '.join(INTERRUPTS)}, not {on_interrupt!r}")
    while True:
        try:
            with attend() as tell:
                return wait_for(folder, timeout_s=timeout_s, for_grants=for_grants, tell=tell)
        except KeyboardInterrupt:
            if on_interrupt == "leave" or (on_interrupt == "ask" and not _wants_it_stopped(folder.path.name)):
                raise
            kill(folder)  # the next look raises JobFailed, or finds the job completed in the last moment


def _wants_it_stopped(id_: str) -> bool:
    """Ask in a terminal; anywhere else, and at a second Ctrl+C, the job is left running."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        while True:
            sys.stderr.write(
                f"\n{id_} needs no terminal to go on. Leave it running, or stop it? [leave/stop] "
            )
            sys.stderr.flush()
            answer = sys.stdin.readline()
            word = answer.strip().lower()
            if word in ("stop", "s", "kill"):
                return True
            if not answer or word in ("leave", "l", ""):
                return False
    except KeyboardInterrupt:
        return False
