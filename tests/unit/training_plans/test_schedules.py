"""Training arguments that follow the rounds."""

from __future__ import annotations

import math

import pytest

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import SpecError
from fedjob.node.grants.contract import Request, broken
from fedjob.node.grants.limits import GrantLimits
from fedjob.training_plans.schedules import (
    SCHEDULES,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    Piecewise,
    Schedule,
    StepDecay,
    at_round,
    declared,
    every_value,
)

EVERY = [
    StepDecay(0.1, factor=0.5, every=2),
    ExponentialDecay(0.1, factor=0.5),
    LinearDecay(0.1, 0.0, rounds=5),
    CosineDecay(0.1, rounds=5, end=0.0),
    CosineDecay(0.1, rounds=7, end=0.0, warmup=2),
    Piecewise({1: 0.1, 4: 0.2}),
]
VALUES = [
    [0.1, 0.1, 0.05, 0.05, 0.025],
    [0.1, 0.05, 0.025, 0.0125, 0.00625],
    [0.1, 0.075, 0.05, 0.025, 0.0],
    [0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2, 0.0],
    [0.1 / 3, 0.2 / 3, 0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05],
    [0.1, 0.1, 0.1, 0.2, 0.2],
]


@pytest.mark.parametrize(("schedule", "values"), list(zip(EVERY, VALUES, strict=True)), ids=repr)
def test_a_schedule_has_the_values_of_its_formula_also_after_travelling(
    schedule: Schedule, values: list[float]
) -> None:
    data = unpack(pack(declared({"lr": schedule, "batch_size": 4})))
    for round_, expected in enumerate(values, start=1):
        assert schedule.at(round_) == pytest.approx(expected)
        assert at_round(data, round_) == {"lr": schedule.at(round_), "batch_size": 4}
    assert list(every_value(data["lr"], 5)) == pytest.approx(values)


def test_every_schedule_of_the_registry_is_tried_here() -> None:
    assert {schedule.name for schedule in EVERY} == set(SCHEDULES.names())


def test_a_map_that_names_no_schedule_is_what_it_is() -> None:
    args = {"when": {"schedule": "weekly"}}
    assert at_round(declared(args), 3) == args


def test_an_owners_limit_holds_for_every_round_of_a_schedule() -> None:
    limits = GrantLimits(args={"lr": {"max": 0.15}})
    given = declared({"lr": Piecewise({1: 0.1, 4: 0.2})})
    assert broken(Request(training_args=given, rounds=3), limits) == ""
    assert "lr is 0.2" in broken(Request(training_args=given, rounds=4), limits)
    odd = {"lr": {"schedule": "piecewise", "values": {"2": 1}}}
    assert "lr" in broken(Request(training_args=odd, rounds=4), limits)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StepDecay(0.0),
        lambda: StepDecay(0.1, factor=1.5),
        lambda: StepDecay(0.1, every=0),
        lambda: ExponentialDecay(-1.0),
        lambda: LinearDecay(0.1, -0.1, rounds=5),
        lambda: LinearDecay(0.1, 0.0, rounds=1),
        lambda: CosineDecay(0.1, rounds=3, warmup=2),
        lambda: Piecewise({2: 0.1}),
        lambda: Piecewise({0: 0.1, 1: 0.1}),
        lambda: Piecewise({"one": 0.1}),  # type: ignore[dict-item]
        lambda: Piecewise(0.1),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: object) -> None:
    with pytest.raises(SpecError, match=r"Decay|Piecewise"):
        wrong()  # type: ignore[operator]
