"""Waiting for a job by reading its folder: whoever looks on is given its last event, too."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fedjob.common.errors import JobFailed
from fedjob.common.lifecycle import State
from fedjob.researcher.runner.wait import wait_for
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord

FOLLOWS_S = 0.2
"""Time by which the last event comes after the record, as at a busy machine."""


def ended_folder(path: Path, state: State) -> JobFolder:
    """Return the folder of a job whose record says that it has ended, and whose events don't yet."""
    folder = JobFolder(path)
    folder.create()
    folder.spec.write_bytes(b"")
    with EventLog(folder.events, path.name) as log:
        log.add("state", state="running")
    JobRecord(state=state, reason="" if state == State.COMPLETED else "killed").save(folder.record)
    return folder


def end_later(folder: JobFolder, state: State) -> threading.Timer:
    """Return a thread that writes the last event of a job after a moment."""

    def write() -> None:
        with EventLog(folder.events, folder.path.name) as log:
            log.add("state", state=state)

    timer = threading.Timer(FOLLOWS_S, write)
    timer.start()
    return timer


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.KILLED])
def test_the_last_event_is_given_though_the_record_names_the_end_before_it(
    tmp_path: Path, state: State
) -> None:
    folder = ended_folder(tmp_path / "job_x", state)
    given: list[JobEvent] = []
    writer = end_later(folder, state)
    try:
        if state == State.COMPLETED:
            assert wait_for(folder, timeout_s=10, tell=given.append).state == state
        else:
            with pytest.raises(JobFailed, match=f"job_x is {state}"):
                wait_for(folder, timeout_s=10, tell=given.append)
    finally:
        writer.join()
    assert [event.body["state"] for event in given] == ["running", state]


def test_an_end_without_its_event_is_waited_for_a_moment_only(tmp_path: Path) -> None:
    folder = ended_folder(tmp_path / "job_x", State.COMPLETED)
    began = time.monotonic()
    assert wait_for(folder, timeout_s=30).state == State.COMPLETED
    assert time.monotonic() - began < 10


def test_a_job_that_has_ended_is_returned_when_the_time_is_up(tmp_path: Path) -> None:
    assert wait_for(ended_folder(tmp_path / "job_x", State.COMPLETED), timeout_s=0).state == State.COMPLETED
