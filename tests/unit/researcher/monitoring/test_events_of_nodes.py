"""Whatever body a node gives an event, everything that reads events goes on, and shows it as it is."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedjob.common import lifecycle
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.hooks.progress import ProgressBar
from fedjob.researcher.monitoring.diagnosis import tasks_of
from fedjob.researcher.monitoring.live import Live
from fedjob.researcher.monitoring.logs import read_logs
from fedjob.researcher.storage.event import TYPES, JobEvent, as_json, format_event
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL, Measurement
from fedjob.researcher.storage.position import Position

KEYS = (
    *("state", "reason", "detail", "worker", "parent", "waiting", "contacts", "by", "note", "nodes", "try", "outcome"),
    *("step", "left_out", "seconds", "done", "total", "n", "last", "ok", "failed", "items", "of", "values", "phase"),
    *("samples", "num_rows", "path", "lines", "withheld", "contact", "text", "stream", "ahead", "unit", "message"),
)  # fmt: skip
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, -(2**63), 1e308, "", "x", "[/red]", "[link=file:///etc]x", "\x1b[31m", "\u202e"),
    *([], [1], [[1]], [None, "a", 1], {}, {"a": 1}, {"a": {"b": [1]}}, {"a": None}, {"1": "x", "a": 2}),
)  # fmt: skip


def events(type_: str) -> list[JobEvent]:
    bodies: list[Any] = [{}, *({key: value} for key, value in product(KEYS, ODD))]
    bodies += [dict.fromkeys(KEYS, value) for value in ODD]
    return [
        JobEvent(type=type_, seq=1 + number, time=1.0, job="job_1", task="k", node="a", round=1, body=as_json(body))
        for number, body in enumerate(bodies)
    ]  # fmt: skip


@pytest.mark.parametrize("type_", [*TYPES, "found", "[/x]"])
def test_no_body_of_an_event_ends_who_reads_it(type_: str, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bar = ProgressBar(console)
    bar.start(JobFolder(tmp_path), 3, Position(round=0, state={}), {})
    live, found = Live(), events(type_)
    for event in found:
        lines, now = format_event(event)
        assert all(text.isprintable() for text in (*lines, now))
        bar.event(event)
        live = live.after([event])
        live.progress(3, 2.0)
        lifecycle.moment_of(event.type, event.body)
    bar.end("completed")
    list(read_logs(found))
    tasks_of(found)
    assert "\x1b]8;" not in console.file.getvalue(), "no link is made of what a node wrote"  # type: ignore[attr-defined]


def test_the_bar_counts_the_nodes_of_a_large_round_and_names_none(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    bar = ProgressBar(console)
    bar.start(JobFolder(tmp_path), 3, Position(round=0, state={}), {})
    nodes = [f"node-{number:02d}" for number in range(20)]
    bar.event(JobEvent(type="ask", seq=1, time=1.0, job="job_1", round=1, body={"nodes": nodes}))
    for number, node in enumerate(nodes[:7]):
        state = {"state": "failed" if number == 3 else "completed"}
        bar.event(JobEvent(type="state", seq=2, time=1.0, job="job_1", node=node, round=1, body=state))
    bar.event(
        JobEvent(type="error", seq=3, time=1.0, job="job_1", node="node-03", body={"reason": "dropped"})
    )
    bar.end("completed")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7 of 20 nodes" in written
    assert "node-03" not in written


def test_a_narrow_terminal_shows_rounds_and_the_time_left_whole(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bar = ProgressBar(console)
    bar.start(JobFolder(tmp_path), 150, Position(round=14, state={}), {})
    rows = tuple(
        Measurement(round=14, phase="train", metric=metric, node=OVERALL, value=0.91, num_examples=9)
        for metric in ("accuracy", "loss", "top5")
    )
    left_out = {f"node-{number}": "dropped" for number in range(12)}
    bar.round_done(
        RoundReport(
            round=14,
            rounds=150,
            position=Position(round=14, state={}),
            rows=rows,
            left_out=left_out,
            seconds=1.0,
        )
    )
    nodes = [f"node-{number:03d}" for number in range(100)]
    bar.event(JobEvent(type="ask", seq=1, time=1.0, job="job_1", round=15, body={"nodes": nodes}))
    done = {"state": "completed"}
    bar.event(JobEvent(type="state", seq=2, time=1.0, job="job_1", node=nodes[0], round=15, body=done))
    bar.end("completed")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "14/150 rounds --:-- 1 of 100 nodes, accuracy 0.91" in written
