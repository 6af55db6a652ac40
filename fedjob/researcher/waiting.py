"""Wait for a job from any process on its home, by reading its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from fedjob.common.errors import JobError, JobFailed, NoSuchJob, NotReady, WaitTimeout
from fedjob.common.lifecycle import HISTORY, PENDING, State
from fedjob.researcher.event import JobEvent, is_job_state
from fedjob.researcher.event_log import EventFile
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.launching import start_runner
from fedjob.researcher.noticing import notice
from fedjob.researcher.record import JobRecord
from fedjob.researcher.tailing import Standing, ended_error

FIRST_LOOK_S = 0.02
LOOK_S = 0.3
_REFUSED = ("rejected", "revoked")
REVIVE_S = 10.0
"""A job that waits and that nobody runs gets a runner, at most so often."""


def wait_for(
    folder: JobFolder,
    *,
    timeout_s: float | None = None,
    for_grants: bool = True,
    tell: Callable[[JobEvent], None] | None = None,
) -> JobRecord:
    """Return the job's record once it is completed; or still waits for owners, and nobody waits for these.

    Args:
        timeout_s: None waits as long as it takes.
        for_grants: False returns as soon as it is known that an owner has to decide.
        tell: is given the events of this attempt as they come.

    Raises:
        NodeRefused: it was rejected; names the nodes whose owners did.
        JobFailed: it ended otherwise; carries outcome and reason.
        WaitTimeout: it goes on, but time is up.
        NotReady: it is a draft.
        NoSuchJob: it was deleted.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    events = EventFile(folder.events, _before_attempt(folder))
    waits_for_owners = False
    revived = -REVIVE_S
    look_s = FIRST_LOOK_S
    while True:
        if not folder.spec.exists():
            raise NoSuchJob(f"job {folder.path.name} is not there any more: was it deleted?")
        record = notice(folder)
        while batch := events.read():
            look_s = FIRST_LOOK_S
            for event in batch:
                if event.type == "grant" and "waiting" in event.body:
                    waits_for_owners = bool(event.body["waiting"])
                if tell is not None:
                    tell(event)
        if record.state == State.DRAFT:
            raise NotReady(f"job {folder.path.name} is a draft: job.submit() it first")
        if record.state == State.COMPLETED:
            return record
        if record.state in HISTORY:
            raise _error_of(folder.path.name, record)
        if not for_grants and record.state == State.WAITING and waits_for_owners:
            return record
        now = time.monotonic()
        if deadline is not None and now > deadline:
            raise WaitTimeout(
                f"job {folder.path.name} is still {record.state} after {timeout_s:g} s; it goes on: wait again, "
                "or job.kill() it"
            )
        if record.state in PENDING and now - revived > REVIVE_S and not folder.is_held():
            revived = now
            with suppress(JobError):  # somebody looks at it right now
                start_runner(folder, folder.take(0.0))
        time.sleep(look_s if deadline is None else max(0.0, min(look_s, deadline - now)))
        look_s = min(2 * look_s, LOOK_S)


def _error_of(id_: str, record: JobRecord) -> JobFailed:
    """Return the error that says how a job ended; a rejected one names the nodes whose owners refused it."""
    standing = Standing(str(record.state), record.reason, record.detail)
    refused = None
    if record.state == State.REJECTED:
        refused = {
            node: str(grant.get("note") or grant["state"])
            for node, grant in record.grants.items()
            if grant["state"] in _REFUSED
        }
    return ended_error(standing, f"job {id_}", refused)


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
