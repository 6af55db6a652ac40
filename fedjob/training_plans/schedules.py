"""Schedules: training arguments that change with the round, as plain data that specs and breakpoints store.

    from fedjob import CosineDecay

    training_args = {"lr": CosineDecay(0.1, rounds=50), "batch_size": 32}

A schedule is stored in the spec as `{"schedule": name, ...}`; nodes receive the value of
the present round, so that a plan reads `training_args["lr"]` as usual. Rounds count from 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedjob.common.checks import (
    check_count,
    check_kinds,
    check_not_negative,
    check_positive,
    check_share,
    shown,
)
from fedjob.common.errors import MessageError, SpecError
from fedjob.common.registry import Registry

MARK = "schedule"
"""The key that distinguishes a schedule's data from other maps."""

MAX_LOOKED_AT = 10_000
"""Rounds of a schedule that are checked in advance: a huge number from a peer must not block a node."""


class Schedule(ABC):
    """A value for every round: a frozen dataclass of plain data."""

    name: ClassVar[str]

    @abstractmethod
    def at(self, round_: int) -> Any:
        """Return the value in a round, from 1."""


@dataclass(frozen=True, slots=True)
class StepDecay(Schedule):
    """`start * factor^k` from round `k * every + 1` on.

    Args:
        start: above 0.
        factor: above 0, at most 1.
        every: rounds between two steps, 1 or more.
    """

    start: float
    factor: float = 0.1
    every: int = 10
    name: ClassVar[str] = "step_decay"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("StepDecay(start=...)", self.start)
        check_share("StepDecay(factor=...)", self.factor)
        check_count("StepDecay(every=...)", self.every)

    def at(self, round_: int) -> float:
        return float(self.start * self.factor ** ((round_ - 1) // self.every))


@dataclass(frozen=True, slots=True)
class ExponentialDecay(Schedule):
    """`start * factor^(round - 1)`.

    Args:
        start: above 0.
        factor: above 0, at most 1.
    """

    start: float
    factor: float = 0.95
    name: ClassVar[str] = "exponential_decay"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("ExponentialDecay(start=...)", self.start)
        check_share("ExponentialDecay(factor=...)", self.factor)

    def at(self, round_: int) -> float:
        return float(self.start * self.factor ** (round_ - 1))


@dataclass(frozen=True, slots=True)
class LinearDecay(Schedule):
    """A straight line from `start` in the first round to `end` in round `rounds`, and `end` from there on.

    Args:
        start: above 0.
        end: 0 or more.
        rounds: 2 or more.
    """

    start: float
    end: float
    rounds: int
    name: ClassVar[str] = "linear_decay"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("LinearDecay(start=...)", self.start)
        check_not_negative("LinearDecay(end=...)", self.end)
        check_count("LinearDecay(rounds=...)", self.rounds, 2)

    def at(self, round_: int) -> float:
        gone = min(1.0, (round_ - 1) / (self.rounds - 1))
        return float(self.start * (1 - gone) + self.end * gone)


@dataclass(frozen=True, slots=True)
class CosineDecay(Schedule):
    """Half a cosine from `start` to `end` in round `rounds`, after a rise over `warmup` rounds.

    Loshchilov, Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    equation 5 without restarts, https://arxiv.org/abs/1608.03983

    Args:
        start: above 0.
        end: 0 or more.
        rounds: 2 or more.
        warmup: 0 or more, below `rounds - 1`; round k of them has `k / (warmup + 1)` of `start`.
    """

    start: float
    rounds: int
    end: float = 1e-6
    warmup: int = 0
    name: ClassVar[str] = "cosine_decay"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("CosineDecay(start=...)", self.start)
        check_count("CosineDecay(rounds=...)", self.rounds, 2)
        check_not_negative("CosineDecay(end=...)", self.end)
        check_count("CosineDecay(warmup=...)", self.warmup, 0)
        if self.warmup >= self.rounds - 1:
            raise SpecError(
                f"CosineDecay(warmup={self.warmup}) leaves no rounds of {self.rounds} to decay over"
            )

    def at(self, round_: int) -> float:
        if round_ <= self.warmup:
            return self.start * round_ / (self.warmup + 1)
        gone = min(1.0, (round_ - 1 - self.warmup) / (self.rounds - 1 - self.warmup))
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * gone)) / 2


@dataclass(frozen=True, slots=True)
class Piecewise(Schedule):
    """Values of your own: each holds from its round on.

    Args:
        values: round -> value, any plain data; round 1 must have one. For example `{1: 5, 10: 1}` for epochs.
    """

    values: Mapping[Any, Any] = field(default_factory=dict)
    name: ClassVar[str] = "piecewise"

    def __post_init__(self) -> None:
        check_kinds(self)
        try:  # keys of plain data are text
            values = {int(round_): value for round_, value in dict(self.values).items()}
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"Piecewise takes a map from rounds to values, not {shown(self.values)}"
            ) from error
        if 1 not in values or min(values) < 1:
            raise SpecError(
                f"Piecewise needs a value for round 1, and counts from there; found {shown(values)}"
            )
        object.__setattr__(self, "values", {str(round_): values[round_] for round_ in sorted(values)})

    def at(self, round_: int) -> Any:
        return self.values[max((key for key in self.values if int(key) <= round_), key=int)]


SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "cosine_decay": "fedjob.training_plans.schedules:CosineDecay",
        "exponential_decay": "fedjob.training_plans.schedules:ExponentialDecay",
        "linear_decay": "fedjob.training_plans.schedules:LinearDecay",
        "piecewise": "fedjob.training_plans.schedules:Piecewise",
        "step_decay": "fedjob.training_plans.schedules:StepDecay",
    },
)


def declared(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with their schedules as data."""
    return {name: _as_data(value) if isinstance(value, Schedule) else value for name, value in args.items()}


def at_round(args: Mapping[str, Any], round_: int) -> dict[str, Any]:
    """Return arguments with each schedule replaced by its value in a round.

    Args:
        args: schedules among them as `declared` returned them.

    Raises:
        SpecError: a schedule has wrong settings.
    """
    return {name: _build(value).at(round_) if is_schedule(value) else value for name, value in args.items()}


def every_value(value: Any, rounds: int) -> Iterator[Any]:
    """Yield the values of an argument in a job's rounds; the argument itself if it is no schedule.

    Raises:
        SpecError: a schedule has wrong settings.
    """
    if not is_schedule(value):
        yield value
        return
    schedule = _build(value)
    for round_ in range(1, min(max(1, rounds), MAX_LOOKED_AT) + 1):
        yield schedule.at(round_)


def _as_data(schedule: Schedule) -> dict[str, Any]:
    name, config = SCHEDULES.config_of(schedule)
    return {MARK: name, **config}


def is_schedule(value: Any) -> bool:
    """Tell whether an argument is a schedule as data."""
    # a map that names no schedule is an ordinary argument: a function may take one
    return isinstance(value, Mapping) and MARK in value and value[MARK] in SCHEDULES


def _build(data: Mapping[str, Any]) -> Schedule:
    try:
        return SCHEDULES.build(str(data[MARK]), {key: value for key, value in data.items() if key != MARK})
    except MessageError as error:
        raise SpecError(f"the schedule {shown(data)} can't be built: {error}") from error
