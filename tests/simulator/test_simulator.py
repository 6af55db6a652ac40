"""Thousands of schedules of losses, doubles, delays, splits and crashes over the real pure cores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulator.schedule import run_schedule
from tests.simulator.toy import undisturbed
from tests.simulator.world import Config, Violation

NUM_SCHEDULES = 2000
CHUNK = 250

CALM = Config(num_nodes=3, num_rounds=3, num_steps=2, fraction=0.6, trouble_s=0.0)


@pytest.mark.parametrize("first", range(0, NUM_SCHEDULES, CHUNK))
def test_every_schedule_ends_with_nothing_lost_and_nothing_counted_twice(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_schedule(seed)
        except Violation as violation:
            pytest.fail(f"python -m tests.simulator --only {seed}    # {violation}", pytrace=False)


def test_a_run_without_faults_is_the_undisturbed_run() -> None:
    report = run_schedule(5, CALM)
    assert report.params == undisturbed(5, CALM, ["n0", "n1", "n2"])
    assert (report.rounds, report.epochs, report.failed) == (3, 1, False)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert run_schedule(77) == run_schedule(77)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_crash_at_each_single_boundary_changes_nothing(slots: int) -> None:
    config = replace(CALM, num_nodes=2, num_rounds=2, num_steps=1, fraction=1.0, slots=slots)
    whole = run_schedule(3, config)
    assert whole.boundaries > 50
    for boundary in range(1, whole.boundaries + 1):
        assert run_schedule(3, config, crash_at=boundary).params == whole.params, f"crash at {boundary}"


@pytest.mark.parametrize(
    "bug",
    [
        "no_dedupe",  # a node that does not know its tasks again
        "volatile_outbox",  # a node whose outbox does not survive a kill
        "forget_output",  # a daemon that does not look for finished outputs when it starts
        "early_receipt",  # a receipt before the commit
        "count_anything",  # a researcher that does not compare work keys
        "arrival_order",  # a fold in the order of arrival
    ],
)
def test_a_broken_party_is_found_out(bug: str) -> None:
    assert any(is_caught(seed, bug) for seed in range(400))


def is_caught(seed: int, bug: str) -> bool:
    try:
        run_schedule(seed, bugs=frozenset({bug}))
    except Violation:
        return True
    return False
