"""Following events: order, ends, and the waits between retries."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import ConnectionLost, JobFailed, NoSuchJob, SpecError
from fedjob.researcher.monitoring.stream import EventSource, FolderSource, JobStanding, Retry, Stream, stream
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord


class ScriptedSource(EventSource):
    """Gives what is prepared: events, or an exception to raise."""

    def __init__(
        self, *reads: Sequence[JobEvent] | Exception, state: str = "running", reason: str = ""
    ) -> None:
        self.reads = list(reads)
        self.state = state
        self.reason = reason
        self.closed = 0

    def read(self) -> list[JobEvent]:
        if not self.reads:
            return []
        found = self.reads.pop(0)
        if isinstance(found, Exception):
            raise found
        return list(found)

    def standing(self) -> JobStanding:
        return JobStanding(self.state, self.reason, "") if not self.reads else JobStanding("running")

    def close(self) -> None:
        self.closed += 1


def state(seq: int, name: str, **body: str) -> JobEvent:
    return JobEvent(type="state", seq=seq, body={"state": name, **body})


def note(seq: int) -> JobEvent:
    return JobEvent(type="note", seq=seq, body={"text": "x"})


def ended_with(found: Stream) -> tuple[list[int], Exception | None]:
    """Return the numbers of a stream's events, and what it returned."""

    def wrapper() -> Generator[JobEvent, None, Exception | None]:
        return (yield from found)

    seqs, whole = [], wrapper()
    while True:
        try:
            seqs.append(next(whole).seq)
        except StopIteration as stop:
            value: Exception | None = stop.value
            return seqs, value


@pytest.mark.feature("TB-69")
def test_waits_double_from_half_a_second() -> None:
    retry, waits = Retry(), []
    for _ in range(6):
        retry, wait_s = retry.failed()
        waits.append(wait_s)
    assert waits == [0.5, 1, 2, 4, 8, None]
    assert Retry(retries=2, wait_s=1, backoff=3).failed()[0].failed()[1] == 3


def test_a_good_read_lets_the_count_begin_anew() -> None:
    retry = Retry().failed()[0].failed()[0].worked()
    assert retry.failed()[1] == 0.5


@pytest.mark.parametrize(
    "wrong", [{"retries": -1}, {"wait_s": "1"}, {"backoff": 0.5}, {"wait_s": float("nan")}]
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is a number of"):
        Retry(**wrong)


@pytest.mark.feature("TB-67")
def test_a_stream_says_at_its_end_how_the_job_ended() -> None:
    good = ScriptedSource([state(1, "running")], [note(2), state(3, "completed")], state="completed")
    assert ended_with(stream(good, follow=True, sleep=lambda s: None)) == ([1, 2, 3], None)
    assert good.closed == 1
    bad = ScriptedSource(
        [state(1, "running")], [state(2, "failed", reason="timeout")], state="failed", reason="timeout"
    )
    seqs, error = ended_with(stream(bad, follow=True, sleep=lambda s: None))
    assert seqs == [1, 2]
    assert isinstance(error, JobFailed)
    assert error.reason == "timeout"


def test_an_end_before_a_restart_is_not_the_end_of_the_stream() -> None:
    source = ScriptedSource(
        [state(1, "failed")], [], [], [state(2, "waiting"), state(3, "completed")], state="completed"
    )
    assert ended_with(stream(source, follow=True, sleep=lambda s: None)) == ([1, 2, 3], None)


def test_events_after_the_last_one_of_an_ended_job_are_none_and_the_stream_ends() -> None:
    source = ScriptedSource(state="killed", reason="killed")
    seqs, error = ended_with(stream(source, follow=True, sleep=lambda s: None))
    assert seqs == []
    assert isinstance(error, JobFailed)


def test_without_following_a_stream_ends_with_what_is_there() -> None:
    assert ended_with(stream(ScriptedSource([note(1)]), follow=False)) == ([1], None)


def test_only_the_types_that_are_asked_for_come_and_handlers_get_them_all() -> None:
    seen: list[int] = []
    source = ScriptedSource([note(1), state(2, "running"), note(3)])
    found = stream(
        source, follow=False, type="note", on_batch=lambda batch: seen.extend(e.seq for e in batch)
    )
    assert ended_with(found)[0] == [1, 3]
    assert seen == [1, 2, 3]
    assert ended_with(
        stream(ScriptedSource([note(1), state(2, "running")]), follow=False, type=("note", "state"))
    )[0] == [1, 2]


def test_a_stream_that_is_left_lets_go_of_its_source() -> None:
    source = ScriptedSource([note(1), note(2)])
    for _ in stream(source, follow=True):
        break
    assert source.closed == 1


@pytest.mark.feature("TB-70")
def test_an_unexpected_error_and_an_interrupt_pass_through() -> None:
    for raised in (ValueError("x"), KeyboardInterrupt()):

        def interrupted(seconds: float, raised: BaseException = raised) -> None:
            raise raised

        source = ScriptedSource([note(1)])
        found = stream(source, follow=True, sleep=interrupted)
        assert next(found).seq == 1
        with pytest.raises(type(raised)):
            next(found)
        assert source.closed == 1


def folder_with(path: Path, *names: str) -> JobFolder:
    """Return a job's folder whose log and record walked through these states."""
    folder = JobFolder(path)
    folder.create()
    folder.spec.write_bytes(b"")
    with EventLog(folder.events, path.name) as log:
        for name in names:
            JobRecord(state=name).save(folder.record)
            log.add("state", state=name)
    return folder


@pytest.mark.feature("TB-63")
def test_whoever_comes_late_hears_the_same(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "job_x", "waiting", "queued")
    early = stream(FolderSource(folder), follow=True, sleep=lambda s: None)
    heard = [next(early), next(early)]
    folder_with(folder.path, "starting", "running", "completed")
    heard += list(early)
    late = list(stream(FolderSource(folder), follow=True, sleep=lambda s: None))
    assert heard == late
    assert [event.body["state"] for event in late] == [
        "waiting",
        "queued",
        "starting",
        "running",
        "completed",
    ]
    assert list(stream(FolderSource(folder, since=3), follow=True, sleep=lambda s: None)) == late[3:]


def test_a_job_that_is_deleted_meanwhile_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "job_x", "waiting")
    found = stream(FolderSource(folder), follow=True, sleep=lambda s: folder.path.rename(tmp_path / "gone"))
    assert next(found).seq == 1
    with pytest.raises(NoSuchJob, match="deleted"):
        next(found)


def test_so_many_failures_are_forgiven_and_one_more_is_not() -> None:
    waits: list[float] = []
    lost = [ConnectionLost("gone")] * 4
    source = ScriptedSource(*lost, [note(1)], *lost, [state(2, "completed")], state="completed")
    assert ended_with(stream(source, follow=True, sleep=waits.append))[0] == [1, 2]
    assert waits[:8] == [0.5, 1, 2, 4] * 2
    waits.clear()
    with pytest.raises(ConnectionLost, match="tried 6 times"):
        list(stream(ScriptedSource(*[OSError("gone")] * 6), follow=True, sleep=waits.append))
    assert waits == [0.5, 1, 2, 4, 8]
