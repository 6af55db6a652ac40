"""What a node's owner reads of tasks in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

from fedjob.node.hooks.base import NodeEvent, TaskHandle
from fedjob.node.hooks.csv import COLUMNS, Csv


def test_rows_are_of_what_was_asked_for_and_hold_no_formula(tmp_path: Path) -> None:
    task = TaskHandle(
        key="k1",
        job="job_1",
        job_name="=HYPERLINK(1)",
        project="+1",
        researcher="ann",
        dataset="scans",
        round=2,
        step="step",
        state="running",
        node="ward",
        folder=tmp_path,
    )
    hook = Csv(events="task.* found")
    events = [
        NodeEvent(type="state", time=0.5, body={"state": "running"}),
        NodeEvent(type="progress", time=1.0, body={"done": 1}),
        NodeEvent(type="found", time=2.0, body={"site": 3}),
    ]
    for event in events:
        hook.event(event, task)
    with (tmp_path / "events.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert [row[:4] for row in rows] == [
        ["1970-01-01T00:00:00.500+00:00", "task.started", "ann", "'+1"],
        ["1970-01-01T00:00:02.000+00:00", "found", "ann", "'+1"],
    ]
    assert rows[1][4:] == ["job_1", "'=HYPERLINK(1)", "scans", "2", "step", "k1", '{"site": 3}']
