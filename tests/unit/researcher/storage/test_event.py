"""What a person reads of an event: golden lines for every type."""

from __future__ import annotations

import re
from typing import Any

import pytest

import fedjob
from fedjob.researcher.monitoring.logs import JobLogs, read_logs
from fedjob.researcher.storage.event import TYPES, JobEvent, format_event

AT = 1727819821.0
"""2024-10-01T21:57:01Z"""
A1 = "2024-10-01T21:57:01Z node-a round 1 | "
JOB = "2024-10-01T21:57:01Z | "
R1 = "2024-10-01T21:57:01Z round 1 | "


def event(type_: str, node: str = "", round_: int = 0, **body: Any) -> JobEvent:
    return JobEvent(type=type_, seq=1, time=AT, job="job_x", node=node, round=round_, body=body)


GOLDEN: list[tuple[JobEvent, list[str], str]] = [
    (event("state", state="queued", reason="", detail=""), [JOB + "queued"], "queued"),
    (
        event("state", round_=1, state="failed", reason="exception", detail="ValueError in line 3"),
        [R1 + "failed (exception: ValueError in line 3)"],
        "failed (exception: ValueError in line 3)",
    ),
    (
        event("state", "node-a", 1, state="running", worker=4711, reason=""),
        [A1 + "running on worker 4711"],
        "node-a is running on worker 4711",
    ),
    (
        event("grant", waiting=["node-a", "node-b"], contacts={"node-a": "ann@a.example"}, plan="ab12"),
        [JOB + "waiting for the owner of node-a (ann@a.example), node-b to decide on the plan"],
        "waiting for the owner of node-a (ann@a.example), node-b to decide on the plan",
    ),
    (
        event("grant", "node-a", waiting=["node-b"], state="rejected", by="ann", note="no heart data"),
        ["2024-10-01T21:57:01Z node-a | rejected by ann: no heart data"],
        "rejected by ann: no heart data",
    ),
    (
        event("setup", "node-a", outcome="ok"),
        ["2024-10-01T21:57:01Z node-a | ready"],
        "node-a: ready",
    ),
    (event("grant", waiting=[]), [JOB + "nobody has to decide any more"], "nobody has to decide any more"),
    (
        event(
            "schedule",
            **{"try": 2, "reason": "quorum", "nodes": {"node-a": "no_free_worker", "node-b": "ok"}},
        ),
        [JOB + "scheduling, try 2: quorum (node-a: no_free_worker, node-b: ok)"],
        "waiting to start, try 2: quorum (node-a: no_free_worker, node-b: ok)",
    ),
    (
        event("ask", round_=1, step="train", nodes=["node-a", "node-b"]),
        [R1 + "asked node-a, node-b to train"],
        "asked node-a, node-b to train",
    ),
    (
        event("round", round_=1, nodes=["node-a"], left_out={"node-b": "late"}, seconds=1.25),
        [R1 + "done with node-a, without node-b in 1.2 s"],
        "round 1 done, without node-b",
    ),
    (
        event("batch", "node-a", 1, done=3, total=10),
        [A1 + "batch 3 of 10 (30 %)"],
        "round 1 node-a: batch 3 of 10 (30 %)",
    ),
    (event("batch", "node-a", 1, of=None), [A1 + "works in batches"], "round 1 node-a: works in batches"),
    (
        event("batch", "node-a", 1, n=3, state="started", last=True),
        [A1 + "batch 3, the last"],
        "round 1 node-a: batch 3, the last",
    ),
    (
        event("batch", "node-a", 1, state="all-done", ok=2, failed=1),
        [A1 + "all batches were tried: 2 went well, 1 failed"],
        "round 1 node-a: all batches were tried: 2 went well, 1 failed",
    ),
    (
        event("batch", "node-a", 1, state="retrying", items=4),
        [A1 + "4 items are tried one by one"],
        "round 1 node-a: 4 items are tried one by one",
    ),
    (
        event("result", "node-a", 1, n=3, num_rows=4),
        [A1 + "a result of 4 items, batch 3"],
        "round 1 node-a: a result of 4 items, batch 3",
    ),
    (event("progress", "node-a", 1, done=3, total=10), [], "round 1 node-a: 3 of 10 (30 %)"),
    (
        event("metrics", "node-a", 1, phase="train", iteration=7, loss=0.123456, accuracy=1.0),
        [A1 + "train: loss=0.1235 accuracy=1"],
        "round 1 node-a: train: loss=0.1235 accuracy=1",
    ),
    (
        event("result", path="/x/result"),
        [JOB + "the result is there: /x/result"],
        "the result is there: /x/result",
    ),
    (event("breakpoint", round_=1, path="/x/round_0001"), [R1 + "breakpoint /x/round_0001"], ""),
    (
        event("log", "node-a", 1, stream="stdout", lines=["Started execution..", "and \x1b[31mon"]),
        [A1 + "Started execution..", A1 + "and  [31mon"],
        "",
    ),
    (
        event("log", "node-a", 1, withheld=True, contact="ann@a.example"),
        [A1 + "withheld by node-a; ask ann@a.example"],
        "",
    ),
    (event("note", text="ending here: loss"), [JOB + "ending here: loss"], ""),
    (
        event("error", "node-a", 1, reason="late", detail="after 60 s"),
        [A1 + "left out: late: after 60 s"],
        "round 1 node-a: left out: late: after 60 s",
    ),
    (event("error", reason="no_space"), [JOB + "error: no_space"], "error: no_space"),
    (
        event("fold_seen", "node-a", 1, size=3, text="x" * 200),
        [A1 + "fold_seen: size=3 text=" + "x" * 117 + "..."],
        "round 1 node-a: fold_seen: size=3 text=" + "x" * 117 + "...",
    ),
]


@pytest.mark.feature("TB-71")
@pytest.mark.parametrize(("seen", "lines", "line"), GOLDEN, ids=lambda x: getattr(x, "type", None))
def test_every_type_reads_as_it_always_did(seen: JobEvent, lines: list[str], line: str) -> None:
    assert fedjob.format_event(seen) == (lines, line)


def test_every_shipped_type_and_an_unknown_one_are_in_the_golden_list() -> None:
    shown = {seen.type for seen, _, _ in GOLDEN}
    assert set(TYPES) < shown
    assert len(shown - set(TYPES)) == 1


@pytest.mark.parametrize("type_", [*TYPES, "odd"])
@pytest.mark.parametrize(
    "body", [{}, {"nodes": None, "left_out": None, "lines": [1]}, {"waiting": ["a"], "total": 0}]
)
def test_a_body_that_lacks_everything_is_shown_all_the_same(type_: str, body: dict[str, Any]) -> None:
    lines, line = format_event(JobEvent(type=type_, body=body))
    assert all("\n" not in text for text in [*lines, line])


@pytest.mark.feature("PS-46")
def test_a_log_line_says_when_where_and_in_which_round() -> None:
    logs = JobLogs(read_logs([event("log", "node-a", 1, stream="stdout", lines=["Started execution.."])]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [a-z0-9-]+ round \d+ \| .*", str(logs))
    assert str(logs) == "2024-10-01T21:57:01Z node-a round 1 | Started execution.."
    assert logs[0].to_plain() == {
        "time": "2024-10-01T21:57:01Z",
        "node": "node-a",
        "round": 1,
        "task": "",
        "stream": "stdout",
        "text": "Started execution..",
        "withheld": False,
    }


def spoken() -> list[JobEvent]:
    return [
        event("log", "node-a", 1, stream="stdout", lines=["one", "two"]),
        event("log", "node-a", 1, stream="stderr", lines=["warning"]),
        event("log", "node-b", 1, withheld=True, contact="bob"),
        event("metrics", "node-a", 1, loss=1.0),
    ]


@pytest.mark.feature("PS-48")
def test_a_researcher_chooses_streams_and_nodes() -> None:
    def texts(**choice: Any) -> list[str]:
        return [line.text for line in read_logs(spoken(), **choice)]

    withheld = "withheld by node-b; ask bob"
    assert texts() == ["one", "two", "warning", withheld]
    assert texts(stderr=False) == ["one", "two", withheld]
    assert texts(stdout=False) == ["warning", withheld]
    assert texts(node="node-a") == ["one", "two", "warning"]
    assert texts(node="node-b") == [withheld]
    assert texts(stdout=False, stderr=False, node="node-a") == []


def test_a_log_that_was_released_later_is_not_called_withheld_any_more() -> None:
    released = event("log", "node-b", 1, stream="stdout", lines=["three"])
    assert [line.text for line in read_logs([*spoken(), released], node="node-b")] == ["three"]
    assert repr(JobLogs([])) == "<no log lines by now>"
    assert JobLogs(read_logs(spoken()))._repr_html_().count("<pre>") == 1
