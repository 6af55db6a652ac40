"""The hook that notes how fast lines were."""

from __future__ import annotations

from pathlib import Path

from fedjob.common.types import new_job_id
from fedjob.repository.line_meter import LEAST_BYTES, LineMeter, Stretch
from fedjob.researcher.connection.lines import OWN, LineLedger
from fedjob.researcher.hooks.line_recording import LineRecording, own_measures
from fedjob.researcher.storage.folder import JobFolder


def test_stretches_of_one_way_are_one_measure() -> None:
    found = own_measures(
        [
            Stretch(way="up", size_bytes=100, seconds=1.0, at=1.0),
            Stretch(way="down", size_bytes=50, seconds=1.0, at=2.0),
            Stretch(way="up", size_bytes=300, seconds=3.0, at=3.0),
        ],
        "job_1",
    )
    assert [(one.party, one.way, one.rate, one.at, one.job) for one in found] == [
        (OWN, "down", 50.0, 2.0, "job_1"),
        (OWN, "up", 100.0, 3.0, "job_1"),
    ]


def recorded(home: Path) -> LineMeter:
    meter = LineMeter()
    hook = LineRecording(meter, LineLedger(home))
    folder = JobFolder(home / "jobs" / new_job_id())
    hook.start(folder, 3, None, {})  # type: ignore[arg-type]
    with meter.moving("up", LEAST_BYTES):
        pass
    hook.end("completed")
    return meter


def test_the_end_of_a_job_notes_what_was_measured(tmp_path: Path) -> None:
    meter = recorded(tmp_path)
    assert LineLedger(tmp_path).read().rate(OWN, "up")
    assert meter.take() == []


def test_a_home_that_takes_no_figures_fails_no_job(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").mkdir()
    recorded(tmp_path)
