"""The time of a job by the speeds that its nodes give."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.types import ENDLESS, new_job_id
from fedjob.researcher.estimates.measured_jobs import spread
from fedjob.researcher.estimates.time_estimate import NODES, TimeEstimate, more_work, time_by_speeds
from fedjob.researcher.runner.traffic_estimate import TrafficEstimate
from fedjob.researcher.storage.spec import Component, JobSpec

SPEC = JobSpec(
    id=new_job_id(),
    protocol=Component(name="fedavg"),
    seed=1,
    rounds=10,
    training_args={"epochs": 2},
    datasets={"east": {"num_rows": 100}, "west": {"num_rows": 400}},
)
SPEEDS = {
    "east": {"examples_s": 100.0, "round_s": 0.5, "start_s": 3.0},
    "west": {"examples_s": 800.0, "round_s": 0.5, "start_s": 1.0},
}
TRAFFIC = TrafficEstimate(
    down={"east": 10_000_000, "west": 10_000_000}, up={"east": 10_000_000, "west": 10_000_000}
)


def test_a_job_takes_its_start_and_so_many_rounds_of_the_slowest_node(tmp_path: Path) -> None:
    found = time_by_speeds(SPEC, tmp_path, SPEEDS, None)
    assert found.seconds == pytest.approx(3.0 + 10 * (0.5 + 2.0 + 0.1))
    assert found.range_s == pytest.approx((found.seconds / NODES, found.seconds * NODES))
    assert "east is the slowest with 100 examples/s" in found.words


def test_transfers_take_the_time_of_the_nodes_own_line(tmp_path: Path) -> None:
    lines = {
        "east": SPEEDS["east"],
        "west": {**SPEEDS["west"], "down_bytes_s": 1e6, "up_bytes_s": 250e3},
    }
    found = time_by_speeds(SPEC, tmp_path, lines, TRAFFIC)
    assert found.seconds == pytest.approx(3.0 + 10 * (0.5 + 1.0 + 1.0 + 4.0 + 0.1))
    assert "west is the slowest" in found.words
    assert "not with transfers of lines that were not measured" in found.words


@pytest.mark.parametrize(
    "speeds",
    [
        {},
        {"east": SPEEDS["east"]},
        {"east": SPEEDS["east"], "west": {"round_s": 0.5}},
        {"east": SPEEDS["east"], "west": {"examples_s": 0.0}},
        {"east": SPEEDS["east"], "west": {"examples_s": 1e-300}},
        {"east": SPEEDS["east"], "west": {"examples_s": 1.0, "round_s": math.inf}},
    ],
)
def test_one_node_without_a_believable_speed_makes_the_time_unknown(
    speeds: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    found = time_by_speeds(SPEC, tmp_path, speeds, None)
    assert (found.seconds, found.range_s) == (None, None)
    assert "estimate(probe=True) tries it" in found.words


def test_an_endless_job_has_no_time(tmp_path: Path) -> None:
    assert time_by_speeds(replace(SPEC, rounds=ENDLESS), tmp_path, SPEEDS, None) == TimeEstimate()


@pytest.mark.parametrize(
    ("body", "args", "times"),
    [
        ({"num_examples": 100, "rows": {"read": 100}}, {"epochs": 2}, 4.0),
        ({"num_examples": 400, "rows": {"read": 100}}, {"epochs": 2}, 4.0),  # the plan repeats its rows
        ({"num_examples": 75, "rows": {"read": 100}}, {"epochs": 2, "test_ratio": 0.25}, 4.0),
        ({"num_examples": 75}, {"epochs": 2, "test_ratio": 0.25}, 4.0),
        ({"num_examples": 100, "rows": {"read": 100}}, {"num_updates": 5}, 1.0),
        ({"num_examples": 0, "rows": {"read": 100}}, {"epochs": 2}, math.inf),
    ],
)
def test_a_dataset_takes_as_much_longer_than_its_mock_as_it_has_more_rows(
    body: dict[str, Any], args: dict[str, Any], times: float
) -> None:
    assert more_work(replace(SPEC, training_args=args), "west", body) == pytest.approx(times)


@pytest.mark.parametrize(
    ("rounds", "times"),
    [
        ([9.0], 1.0),
        ([9.0, 1.0, 5.0, 1.0], 1.0),
        ([9.0, 1.0, 1.0, 1.0, 1.0], 1.0),
        ([9.0, 1.0, 1.0, 1.0, 3.0], 3.0),
        ([9.0, 0.25, 1.0, 1.0, 1.0], 4.0),
        ([9.0, *([1.0] * 18), 1.5, 7.0], 1.5),
        ([9.0, 0.0, 1.0, 1.0, 1.0], 1.0),
    ],
)
def test_the_spread_is_that_of_nine_in_ten_rounds_after_the_first(rounds: list[float], times: float) -> None:
    assert spread(rounds) == pytest.approx(times)
