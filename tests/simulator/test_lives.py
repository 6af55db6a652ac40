"""Runners are killed at every state of a job, at gates and in restarts: whoever looks is told, and the job ends."""

from __future__ import annotations

import logging

import pytest

from tests.simulator.lives import run_life
from tests.simulator.world import Violation


def test_a_job_whose_runners_are_killed_anywhere_is_never_left_as_if_somebody_ran_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, logger="fedjob")
    seen, killed = set[str](), 0
    for seed in range(60):
        try:
            life = run_life(seed)
        except Violation as violation:
            pytest.fail(f"run_life({seed}): {violation}", pytrace=False)
        seen, killed = seen | life.seen, killed + life.num_killed
    assert {"waiting", "queued", "starting", "running"} <= seen
    assert killed > 60


def test_a_look_that_sees_no_dead_runner_is_found_out() -> None:
    assert any(breaks_a_promise(seed) for seed in range(60))


def breaks_a_promise(seed: int) -> bool:
    try:
        run_life(seed, frozenset({"blind"}))
    except Violation:
        return True
    return False
