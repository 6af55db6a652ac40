"""The ledger of how fast tasks went at a node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.node.storage.database import Database
from fedjob.node.storage.speeds import SpeedLedger, TaskSpeed
from fedjob.repository.line_meter import LEAST_BYTES

TASK = TaskSpeed(
    job="job_1",
    work="plan",
    model="width 50",
    examples=1000.0,
    trained_s=2.0,
    fetched=1_000_000,
    fetch_s=0.5,
    stored=500_000,
    store_s=1.0,
    other_s=3.0,
)


@pytest.fixture
def ledger(tmp_path: Path) -> SpeedLedger:
    return SpeedLedger(Database(tmp_path / "node.sqlite"))


def test_nothing_is_said_where_nothing_was_measured(ledger: SpeedLedger) -> None:
    assert ledger.of("plan", "width 50") == {}


def test_speeds_are_sums_over_tasks_and_the_start_is_what_the_first_round_took_more(
    ledger: SpeedLedger,
) -> None:
    ledger.add(TASK)
    ledger.add(replace(TASK, trained_s=3.0, other_s=0.25))
    assert ledger.of("plan", "width 50") == {
        "examples_s": 400.0,
        "down_bytes_s": 2_000_000.0,
        "up_bytes_s": 500_000.0,
        "round_s": 0.25,
        "start_s": 2.75,
    }


@pytest.mark.parametrize(("work", "model"), [("another", "width 50"), ("plan", "width 51")])
def test_another_plan_or_model_has_no_training_speed_but_the_same_line(
    work: str, model: str, ledger: SpeedLedger
) -> None:
    ledger.add(TASK)
    found = ledger.of(work, model)
    assert "examples_s" not in found
    assert found["down_bytes_s"] == 2_000_000.0


def test_small_transfers_and_tasks_without_a_time_tell_nothing(ledger: SpeedLedger) -> None:
    few = LEAST_BYTES - 1
    ledger.add(replace(TASK, fetched=few, stored=few, trained_s=0.0))
    assert ledger.of("plan", "width 50").keys() == {"round_s", "start_s"}


def test_the_last_jobs_count_and_old_ones_are_forgotten(ledger: SpeedLedger) -> None:
    ledger.add(replace(TASK, job="old", examples=1.0))
    for number in range(20):
        ledger.add(replace(TASK, job=f"job_{number}"))
    assert ledger.of("plan", "width 50")["examples_s"] == 500.0


def test_a_line_is_as_fast_as_the_newest_jobs_transfers_or_a_check_after_them(ledger: SpeedLedger) -> None:
    ledger.add(replace(TASK, job="old"))
    ledger.add(replace(TASK, job="new", fetch_s=5.0, store_s=10.0))
    found = ledger.of("plan", "width 50")
    assert (found["down_bytes_s"], found["up_bytes_s"]) == (200_000.0, 50_000.0)
    ledger.add_line(300_000, 1.0, 3.0)
    checked = ledger.of("plan", "width 50")
    assert (checked["down_bytes_s"], checked["up_bytes_s"]) == (300_000.0, 100_000.0)
    same = ("examples_s", "round_s", "start_s")
    assert [checked[name] for name in same] == [found[name] for name in same], "a check is no task"
    ledger.add_line(600_000, 1.0, 3.0)
    assert ledger.of("plan", "width 50")["down_bytes_s"] == 600_000.0
    ledger.add(replace(TASK, job="newest"))
    assert ledger.of("plan", "width 50")["down_bytes_s"] == 2_000_000.0


def test_within_a_job_the_newest_transfers_count_most(ledger: SpeedLedger) -> None:
    for _ in range(20):
        ledger.add(TASK)
    for _ in range(10):
        ledger.add(replace(TASK, fetch_s=5.0))
    assert ledger.of("plan", "width 50")["down_bytes_s"] == pytest.approx(200_000.0, rel=0.05)
    ledger.add(replace(TASK, fetched=0, fetch_s=0.0))  # a task that fetched nothing
    assert ledger.of("plan", "width 50")["down_bytes_s"] == pytest.approx(200_000.0, rel=0.05)
