"""The end of a log: read once however long it is, followed while it grows, and read anew where it was replaced."""

from __future__ import annotations

from pathlib import Path

from fedjob.researcher.monitoring.live import Live
from fedjob.researcher.page.log_tail import MAX_EVENTS, LogTails
from fedjob.researcher.storage.event_log import EventLog, read_last_events


def test_a_tail_grows_with_its_log_and_sees_what_came_once(tmp_path: Path) -> None:
    path, tails = tmp_path / "events.jsonl", LogTails()
    assert tails.read(path, Live()) == ([], Live())
    with EventLog(path) as log:
        log.add("state", state="running")
        log.add("round", round_=3)
        events, live = tails.read(path, Live())
        assert ([event.seq for event in events], live.round) == ([1, 2], 3)
        log.add("round", round_=4)
        with path.open("ab") as file:
            file.write(b'{"v":1,"type":"rou')  # torn: whoever writes has not finished
        events, live = tails.read(path, Live())
        assert ([event.seq for event in events], live.round) == ([1, 2, 3], 4)


def test_a_log_in_the_place_of_a_longer_one_is_read_anew(tmp_path: Path) -> None:
    path, tails = tmp_path / "events.jsonl", LogTails()
    with EventLog(path) as log:
        for round_ in range(1, 9):
            log.add("round", round_=round_)
    assert tails.read(path, Live())[1].round == 8
    path.unlink()
    with EventLog(path) as log:
        log.add("round", round_=1)
    assert tails.read(path, Live())[1].round == 1


def test_of_a_long_log_the_end_is_read_and_kept(tmp_path: Path) -> None:
    path, tails = tmp_path / "events.jsonl", LogTails()
    with EventLog(path) as log:
        for _ in range(MAX_EVENTS + 50):
            log.add("note", text="x" * 80)
    assert [event.seq for event in read_last_events(path, 1000)] == list(
        range(MAX_EVENTS + 46, MAX_EVENTS + 51)
    )
    assert read_last_events(path, 10) == []
    assert read_last_events(tmp_path / "none", 10) == []
    events = tails.read(path, Live())[0]
    assert events[-1].seq == MAX_EVENTS + 50
    assert len(events) < MAX_EVENTS
    with EventLog(path) as log:
        for _ in range(MAX_EVENTS):
            log.add("note", text="")
    assert len(tails.read(path, Live())[0]) == MAX_EVENTS
