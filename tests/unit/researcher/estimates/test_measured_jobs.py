"""The measures of jobs that ran, and a round that follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.researcher.connection.lines import OWN, LineHistory, LineLedger, LineMeasure
from fedjob.researcher.estimates.measured_jobs import (
    MeasuredJob,
    RoundBytes,
    likely_s,
    line_change,
    trained_at,
)
from fedjob.researcher.estimates.time_estimate import age_text

NODES = ("east", "west")
JOB = MeasuredJob(
    id="job_1",
    at=1000.0,
    rounds_s=(0.5,) * 5,
    trained_s={"east": 0.2, "west": 0.3},
    other_s={"east": 0.05, "west": 0.05},
)
MOVED = RoundBytes(down=dict.fromkeys(NODES, 4e6), up=dict.fromkeys(NODES, 4e6), sent=4e6)


def measures(rate: float, at: float, job: str = "") -> list[LineMeasure]:
    return [
        LineMeasure(party=party, way=way, size_bytes=1_000_000, seconds=1e6 / rate, at=at, job=job)
        for party in (OWN, *NODES)
        for way in ("down", "up")
    ]


def test_rounds_that_a_job_had_take_what_they_took_and_further_ones_as_long_as_its_late_ones() -> None:
    job = replace(JOB, rounds_s=(3.0, 0.9, 0.8, 0.6, 0.4))
    assert job.each_s == 0.5
    assert job.first_s == pytest.approx(5.7 - 5 * 0.5)
    assert [job.of_rounds_s(rounds) for rounds in (1, 3, 5, 15)] == pytest.approx([3.0, 4.7, 5.7, 10.7])
    assert replace(JOB, rounds_s=(3.0,)).of_rounds_s(2) == 6.0


def test_over_the_same_line_a_round_takes_what_it_took() -> None:
    lines = LineHistory(measures(2e8, 999.0, "job_1") + measures(1.5e8, 2000.0))
    change = line_change(lines, NODES, JOB)
    assert not change.changed
    assert likely_s(JOB, 400, MOVED, change) / 400 == pytest.approx(0.5, rel=0.01)


def test_over_a_slower_line_a_round_takes_the_transfers_of_that_line() -> None:
    change = line_change(LineHistory(measures(2e8, 999.0, "job_1") + measures(2.5e6, 2000.0)), NODES, JOB)
    assert change.changed
    assert likely_s(JOB, 400, MOVED, change) / 400 == pytest.approx(0.5 + 5 * 1.6 - 5 * 0.02, rel=0.01)


def test_over_a_faster_line_a_round_is_rid_of_the_transfers_of_the_old_one() -> None:
    slow = MeasuredJob(
        id="job_2", at=1000.0, rounds_s=(8.5, 8.5, 8.5), trained_s=JOB.trained_s, other_s=JOB.other_s
    )
    change = line_change(LineHistory(measures(2.5e6, 999.0, "job_2") + measures(2e8, 2000.0)), NODES, slow)
    assert likely_s(slow, 3, MOVED, change) == pytest.approx(3 * (8.5 - 8.25 + 0.43), rel=0.05)


def test_a_line_that_nobody_has_measured_changes_nothing() -> None:
    change = line_change(LineHistory(()), NODES, JOB)
    assert likely_s(JOB, 5, MOVED, change, {"east": 0.4, "west": 0.6}) == pytest.approx(2.5 + 5 * 0.3)


def test_a_jobs_line_is_that_of_its_own_transfers_else_the_last_one_before_it() -> None:
    lines = LineHistory(
        [
            *measures(1.0, 10.0, "job_0"),
            *measures(2.0, 990.0, "job_0"),
            *measures(3.0, 1000.5),
            *measures(4.0, 1000.1, "job_1"),
        ]
    )
    assert lines.rate(OWN, "up") == pytest.approx(3.0)
    assert lines.rate_at(OWN, "up", 1000.0, "job_1") == pytest.approx(4.0)
    assert lines.rate_at(OWN, "up", 1000.0, "job_5") == pytest.approx(2.0)
    assert lines.rate_at(OWN, "up", 5.0, "job_5") == pytest.approx(1.0), "the next one, where none was before"
    assert lines.rate_at(OWN, "up", 90_000.0, "job_5") is None, "that is too long ago"
    assert lines.rate_at(OWN, "up", 90_000.0, "job_1") == pytest.approx(4.0)
    assert lines.rate("north", "up") is None
    assert lines.measured_at([OWN, "east"]) == 1000.5
    assert lines.measured_at([OWN, "north"]) is None


def test_training_grows_with_the_epochs_that_were_measured() -> None:
    assert trained_at([(JOB, 1)], 3) == pytest.approx({"east": 0.6, "west": 0.9})
    two = MeasuredJob(
        id="job_2", at=2000.0, rounds_s=(1.0, 1.0), trained_s={"east": 0.3, "west": 0.9}, other_s={}
    )
    found = trained_at([(two, 2), (JOB, 1)], 3)
    assert found["east"] == pytest.approx(0.4), "a tenth of it does not grow"
    assert found["west"] == pytest.approx(3 * (0.9 + 0.2) / (2 + 2 / 3)), (
        "it grows by no more than in proportion"
    )
    assert trained_at([(two, 1), (JOB, 2)], 8)["east"] == pytest.approx((0.3 + 0.2 * 2 / 3) / (5 / 3))


def test_the_ledger_of_lines_passes_over_what_is_no_measure(tmp_path: Path) -> None:
    ledger = LineLedger(tmp_path)
    assert ledger.read().rate(OWN, "up") is None
    ledger.add(measures(2e6, 1.0))
    with open(tmp_path / "lines.jsonl", "a", encoding="utf-8") as file:
        file.write('{"party": "", "way": "up", "size_bytes": 1e999, "seconds": 1, "at": 9, "job": ""}\n')
        file.write('{"party": "", "way": "up", "size_bytes": 5, "seconds": 0, "at": 9, "job": ""}\n')
        file.write(
            '{"party": "", "way": "sideways", "size_bytes": 5, "seconds": 1, "at": 9, "job": ""}\n[1]\n7\n{"par'
        )
    assert ledger.read().rate(OWN, "up") == pytest.approx(2e6)


def test_a_line_that_a_crash_has_cut_costs_the_next_measure_alone(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"party": ""')
    ledger = LineLedger(tmp_path)
    ledger.add(measures(2e6, 1.0))
    assert ledger.read().rate("west", "up") == pytest.approx(2e6)


def test_the_ledger_of_lines_keeps_the_newest(tmp_path: Path) -> None:
    ledger = LineLedger(tmp_path)
    for number in range(9):
        ledger.add(measures(1e6 + number, float(number + 1)) * 100)
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert len(lines) <= 4000
    assert ledger.read().rate(OWN, "up") == pytest.approx(1e6 + 8)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5.0, "0 s"), (7.4, "7 s"), (90.0, "2 min"), (7300.0, "2 h"), (2e5, "2 d")]
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
