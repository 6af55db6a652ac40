"""The submission of a job to a runner of its own; it may be repeated safely after any failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from fedjob.common.errors import (
    ConnectionLost,
    JobError,
    NotPermitted,
    RepositoryError,
    SubmitError,
    TransportError,
)
from fedjob.common.lifecycle import PENDING, State
from fedjob.researcher.runner.launch import start_runner
from fedjob.researcher.runner.revival import look
from fedjob.researcher.storage import submissions
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.index import owner_of
from fedjob.researcher.storage.record import load_record, utc_now, working_folder
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.submissions import Submission, check_token
from fedjob.researcher.storage.transitions import walk


def submission_of(folder: JobFolder, token: str) -> Submission:
    """Return the record of a job's submission."""
    record, spec = load_record(folder.record), load_spec(folder.spec)
    home = folder.path.parent.parent
    return Submission(
        token=token,
        state="creating",
        job_id=spec.id,
        name=spec.name,
        spec_hash=record.content_hash,
        project=spec.project,
        owner=owner_of(home),
        time=utc_now(),
        submitted_from=record.submitted_from or working_folder(),
    )


def hand_over(folder: JobFolder, token: str, prepare: Callable[[JobFolder], JobFolder]) -> JobFolder:
    """Submit the draft in `folder` and return the folder of the job that this made, or made before.

    Args:
        token: empty for none.
        prepare: makes a draft ready (its data found, the broker reached); returns its folder, maybe moved.

    Raises:
        SubmitError: hub or broker can't be reached; the job stays a draft.
        JobError: it was submitted before, and not with this token.
    """
    home = folder.path.parent.parent
    if token:
        check_token(token)
    with submissions.one_at_a_time(home):
        state = load_record(folder.record).state
        if state != State.DRAFT and not (token and load_record(folder.record).token == token):
            raise JobError(f"{folder.path.name} is {state}: only a draft is submitted; restart or clone it")
        found = submissions.begin(home, submission_of(folder, token))
        theirs = JobFolder(home / "jobs" / found.job_id)
        state = load_record(theirs.record).state
        if state == State.DRAFT:
            try:
                theirs = prepare(theirs)
            except (TransportError, RepositoryError, NotPermitted) as error:
                submissions.withdrawn(home, found.job_id)
                refused = SubmitError(f"the job was not submitted and stays a draft: {error}")
                refused.reason = error.reason
                raise refused from error
            except BaseException:
                submissions.withdrawn(home, found.job_id)
                raise
            lock = theirs.take()
            try:
                submissions.seal_job(theirs)
                record = replace(
                    load_record(theirs.record),
                    token=token,
                    detached=True,
                    submitted_from=found.submitted_from,
                )
                walk(theirs, record, [State.WAITING])
            except BaseException:
                os.close(lock)
                raise
            start_runner(theirs, lock)
        if found.state != "created":
            submissions.created(home, found.job_id)
    if state in PENDING:
        look(theirs)
    return theirs


def check_connected(connected: bool, url: str) -> None:
    """Raise unless the broker is there.

    Raises:
        ConnectionLost: it is not.
    """
    if not connected:
        raise ConnectionLost(f"the broker {url} is not connected: start it, then submit again")
