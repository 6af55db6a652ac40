"""What nodes answered is not for those who only watch."""

from __future__ import annotations

from pathlib import Path

from fedjob.researcher.monitoring.watcher_frame import without_answers
from fedjob.researcher.storage.event import decode_lines
from fedjob.researcher.storage.event_log import EventLog


def test_watchers_hear_of_a_result_and_see_no_row_of_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, "job_x") as log:
        log.add("result", node="é", num_rows=2, rows=[[0.25, "secret"]], gathered=1.5)
        log.add("result", node="b", n=1, num_rows=1, value={"secret": 1})
        log.add("result", files=["value.mpk"])
        log.add("metrics", node="b", rows=3, loss=0.5)
    before = path.read_bytes()
    shown = without_answers(before)
    assert [len(line) for line in shown.split(b"\n")] == [len(line) for line in before.split(b"\n")]
    assert b"secret" not in shown
    bodies = [event.body for event in decode_lines(shown)]
    assert bodies == [
        {"num_rows": 2, "gathered": 1.5},
        {"n": 1, "num_rows": 1},
        {"files": ["value.mpk"]},
        {"rows": 3, "loss": 0.5},
    ]
    assert without_answers(b'{"type":"result","node":"a","bo') == b" " * 31
