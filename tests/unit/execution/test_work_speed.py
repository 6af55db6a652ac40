"""The amount of a round's training, and the speed of a core."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.execution.work_speed import core_speed, examples_in, rows_trained_on

AMOUNTS: list[tuple[dict[str, Any], int, float]] = [
    ({}, 100, 100.0),
    ({"epochs": 3}, 100, 300.0),
    ({"epochs": 2, "batch_size": 10, "batch_maxnum": 4}, 100, 80.0),
    ({"epochs": 2, "batch_size": 10, "batch_maxnum": 40}, 100, 200.0),
    ({"num_updates": 7, "batch_size": 10}, 100, 70.0),
    ({"num_updates": 7}, 100, 224.0),
    ({"num_updates": 7, "batch_size": 500}, 100, 700.0),
    ({"epochs": {"schedule": "steps"}}, 100, 0.0),
    ({"epochs": 1}, 0, 0.0),
]


@pytest.mark.parametrize(("training_args", "rows", "examples"), AMOUNTS)
def test_the_examples_of_a_round_are_those_that_come_up(
    training_args: dict[str, Any], rows: int, examples: float
) -> None:
    assert examples_in(training_args, rows) == examples


def test_rows_that_are_held_out_are_not_trained_on() -> None:
    assert rows_trained_on({"test_ratio": 0.25}, 100) == 75
    assert rows_trained_on({}, 100) == 100


def test_the_speed_of_a_core_is_measured_once() -> None:
    assert core_speed() > 0.1
    assert core_speed() == core_speed()
