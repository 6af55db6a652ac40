"""The lines that waiting for a job and watching it print."""

from __future__ import annotations

import io
import json
import os
import pty
from pathlib import Path

import pytest

from fedjob.researcher.monitoring.display import Display, lines
from fedjob.researcher.storage.event import JobEvent

NODES = ("clinic-a", "clinic-b")
ROUNDS = 5


def events_of_a_job() -> list[JobEvent]:
    """Return the events of a job of some rounds at two nodes."""
    made = [JobEvent(type="state", body={"state": "running"})]
    for round_ in range(1, ROUNDS + 1):
        for state in ("queued", "starting", "running", "completed"):
            made += [JobEvent(type="state", node=n, round=round_, body={"state": state}) for n in NODES]
        made.append(JobEvent(type="round", round=round_, body={"nodes": list(NODES)}))
    return [*made, JobEvent(type="state", body={"state": "completed"})]


def starts(shown: list[str]) -> list[str]:
    return [
        line for line in shown if line.endswith(("| queued", "| starting", "| running")) and "clinic" in line
    ]


def test_task_starts_are_lines_in_the_first_round_only() -> None:
    shown = list(lines(events_of_a_job()))
    assert len(starts(shown)) == 3 * len(NODES)
    assert all("round 1 " in line for line in starts(shown))
    assert sum("done with" in line for line in shown) == ROUNDS
    out = io.StringIO()
    display = Display(out)
    for event in events_of_a_job():
        display.tell(event)
    display.close()
    assert starts(out.getvalue().splitlines()) == starts(shown)


def test_whoever_asks_for_states_gets_them_all() -> None:
    assert len(starts(list(lines(events_of_a_job(), whole=True)))) == 3 * len(NODES) * ROUNDS


def test_json_lines_leave_nothing_out() -> None:
    found = [json.loads(line) for line in lines(events_of_a_job(), as_json=True)]
    assert len(found) == len(events_of_a_job())


@pytest.mark.parametrize(
    "body",
    [
        {"state": "failed", "reason": "exception"},
        {"state": "stopping"},
        {"state": "queued", "reason": "worker_died"},
    ],
)
def test_what_is_news_in_a_later_round_is_a_line(body: dict[str, str]) -> None:
    (shown,) = lines([JobEvent(type="state", node="clinic-a", round=7, body=body)])
    assert body["state"] in shown


def test_the_job_s_own_states_are_always_lines() -> None:
    (shown,) = lines([JobEvent(type="state", round=7, body={"state": "running"})])
    assert shown.endswith("| running")


def test_a_terminal_shows_the_start_of_a_later_round_as_its_living_line(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    try:
        with open(writer, "w", closefd=False, encoding="utf-8") as out:
            display = Display(out)
            display.tell(JobEvent(type="state", node="clinic-a", round=4, body={"state": "running"}))
            assert display._status.status == "clinic-a is running"
            display.close()
    finally:
        os.close(writer)
        os.close(reader)
