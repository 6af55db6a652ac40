"""A job's event log: lines, versions, crashes, and readers that follow while it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.lifecycle import State
from fedjob.researcher.storage import event as module
from fedjob.researcher.storage.event import TYPES, JobEvent, LaterVersion, decode_event
from fedjob.researcher.storage.event_log import MAX_LINE_BYTES, EventFile, EventLog, read_events

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"


def schema() -> dict[str, Any]:
    """Return the schema that is shipped."""
    path = Path(module.__file__).with_name("event.schema.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_schema_lists_the_types_and_states_of_the_code() -> None:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["properties"]["type"]["anyOf"][0]["enum"] == list(TYPES)
    assert found["properties"]["v"]["const"] == module.VERSION
    rules = {rule["if"]["properties"]["type"].get("const"): rule for rule in found["allOf"]}
    states = rules["state"]["then"]["properties"]["body"]["properties"]["state"]["enum"]
    assert states == [state.value for state in State]


def test_a_line_says_who_when_and_what(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", JOB, clock=lambda: 12.5) as log:
        log.add("metrics", round_=2, node="node-a", task="ab", loss=0.5, odd=float("nan"), at=Path("x"))
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert line == {
        "v": 1,
        "seq": 1,
        "type": "metrics",
        "job": JOB,
        "task": "ab",
        "node": "node-a",
        "round": 2,
        "time": 12.5,
        "body": {"loss": 0.5, "odd": "nan", "at": "x"},
    }
    jsonschema.validate(line, schema())


def test_a_body_may_use_every_name(tmp_path: Path) -> None:
    body = {"type_": 1, "round_": 2, "node": "me", "task": "t", "self": 3, "body": 4}
    with EventLog(tmp_path / "events.jsonl", JOB) as log:
        log.record("counted", body, node="node-a")
    assert [(e.node, e.body) for e in read_events(tmp_path / "events.jsonl")] == [("node-a", body)]


@pytest.mark.parametrize("name", ["", "State", "a b", "9", "x" * 65, "état", "a\n"])
def test_a_type_that_no_event_may_have_is_refused(name: str, tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", JOB) as log:
        with pytest.raises(SpecError, match="event's type"):
            log.add(name)
        assert log.seq == 0


def test_a_line_that_would_be_too_long_says_how_long(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", JOB) as log:
        log.add("note", text="x" * MAX_LINE_BYTES)
    [event] = read_events(tmp_path / "events.jsonl")
    assert event.body["too_large_bytes"] > MAX_LINE_BYTES


@pytest.mark.parametrize(
    "torn", [b'{"v":1,"seq":4,"ty', b"\0" * 100, b"\0" * 70_000 + b"\n", b"{}\n", b"[]\nxx\n{"]
)
def test_a_log_goes_on_counting_after_a_torn_last_line(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, JOB) as log:
        for number in range(3):
            log.add("note", text=str(number))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [e.seq for e in read_events(path)] == [1, 2, 3]
    with EventLog(path, JOB) as again:
        assert (again.seq, path.read_bytes()) == (3, whole)
        assert again.add("note", text="on").seq == 4
    assert [e.seq for e in read_events(path)] == [1, 2, 3, 4]


def test_a_log_of_nothing_but_rubbish_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"v":1,')
    with EventLog(path, JOB) as log:
        assert log.add("note", text="one").seq == 1


def test_opening_a_log_reads_its_end_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:  # 20 GB on paper: reading it would take minutes
        file.truncate(20 << 30)
        file.seek(0, 2)
        file.write(
            b"\n" + JobEvent(type="note", seq=123_456_789, body={"text": "x"}).to_json().encode() + b"\n"
        )
    with EventLog(path, JOB) as log:
        assert log.add("note", text="on").seq == 123_456_790


def test_a_reader_takes_up_where_it_stopped_and_leaves_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventFile(path)
    assert reader.read() == []
    with EventLog(path, JOB) as log:
        log.add("note", text="one")
    assert [e.seq for e in reader.read()] == [1]
    with path.open("ab") as file:
        file.write(b'{"v":1,"seq":2')
    assert reader.read() == []
    with EventLog(path, JOB) as log:
        log.add("note", text="two")
    assert [e.body["text"] for e in reader.read()] == ["two"]


@pytest.mark.parametrize("since", [0, 1, 777, 5_999, 6_000, 9_999])
def test_a_reader_begins_after_any_event_of_a_long_log(since: int, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = (JobEvent(type="note", seq=k, body={"text": "x" * 200}).to_json() for k in range(1, 6_001))
    path.write_text("\n".join(lines) + "\n")
    assert path.stat().st_size > 4 * MAX_LINE_BYTES
    assert [e.seq for e in read_events(path, since)] == list(range(since + 1, 6_001))


def test_a_later_version_is_refused_and_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"v":2,"seq":1,"type":"note"}\n')
    for read in (lambda: list(read_events(path)), lambda: EventLog(path, JOB)):
        with pytest.raises(LaterVersion, match="update this one"):
            read()
    assert decode_event('{"v":1,"type":"note","colour":"red"}').type == "note"
    for wrong in ("x", "{}", "[]", '{"v":"1"}', '{"v":1}', '{"v":true,"x":1}'):
        with pytest.raises(DecodeError):
            decode_event(wrong)
