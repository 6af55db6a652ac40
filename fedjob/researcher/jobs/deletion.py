"""The deletion of a job: its folder, its objects at the hub, what nodes keep for it. A tombstone stays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedjob.common.errors import NotFinished
from fedjob.common.files import remove_folder
from fedjob.common.lifecycle import HISTORY, State
from fedjob.common.types import party_of
from fedjob.messaging.messages import End
from fedjob.researcher.connection.end_messages import EndMessage, forget_end_messages, release
from fedjob.researcher.hooks.publishing import stop_showing
from fedjob.researcher.storage.folder import LET_GO_S, JobFolder
from fedjob.researcher.storage.index import owner_of
from fedjob.researcher.storage.record import utc_now
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.submissions import Submission, deleted
from fedjob.researcher.storage.transitions import notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedjob.researcher.connection.connection import Connection


def delete_job(folder: JobFolder, reach: Callable[[], Connection]) -> None:
    """Delete a job that has ended, or a draft.

    Args:
        reach: connects; called for a job that nodes know of.

    Raises:
        NotFinished: it has not ended.
        TransportError, RepositoryError: the hub can't be reached; nothing was deleted.
    """
    record = notice(folder)
    if record.state not in HISTORY and record.state != State.DRAFT:
        raise NotFinished(f"{folder.path.name} is {record.state}: kill it, then delete it")
    spec = load_spec(folder.spec)
    home = folder.path.parent.parent
    with folder.locked(LET_GO_S):
        if record.attempt and not spec.local:
            session = reach()
            session.repository.forget_keys(spec.id)
            session.repository.end_job(spec.id)
            if spec.watchers:
                stop_showing(session, spec.id)
            end = End(outcome=record.state)
            parties = {party_of(node) for node in spec.datasets}
            release(session, {party: EndMessage(spec.id, end, record.epoch) for party in parties})
        else:
            forget_end_messages(home, spec.id)
        if record.attempt:
            deleted(
                home,
                Submission(
                    token=record.token,
                    state="job_deleted",
                    job_id=spec.id,
                    name=spec.name,
                    spec_hash=record.content_hash,
                    project=spec.project,
                    owner=owner_of(home),
                    time=record.submitted,
                    submitted_from=record.submitted_from,
                    deleted_by=owner_of(home),
                    deleted_time=utc_now(),
                ),
            )
        gone = folder.path.with_name(f".deleted.{folder.path.name}")
        os.rename(folder.path, gone)  # at once for whoever looks; a crash in between leaves a hidden rest
    remove_folder(gone)
